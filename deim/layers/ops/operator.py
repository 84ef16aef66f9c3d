"""Registration of a kernel and its gradient as a torch operator: differentiable, and opaque to ``torch.compile``."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# (value, alternating heights and widths, locations, weights, points of each level) -> (B, Q, H * D)
Forward = Callable[[Tensor, list[int], Tensor, Tensor, list[int]], Tensor]
# (gradient, then the arguments of Forward) -> gradients of value, locations and weights
Backward = Callable[[Tensor, Tensor, list[int], Tensor, Tensor, list[int]], tuple[Tensor, Tensor, Tensor]]
# The same as a schema, because torch 2.6 does not support annotations such as list[int].
_INPUTS = "Tensor value, SymInt[] shapes, Tensor locations, Tensor weights, SymInt[] points"
# See deform_attn.
DeformAttn = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor, Sequence[int]], Tensor]


def register_operator(name: str, forward: Forward, backward: Backward, dtype: torch.dtype | None = None) -> DeformAttn:
    """Return :func:`deim.layers.ops.deform_attn` implemented by a kernel, registered as the operator ``deim::<name>``.

    Args:
        name: name of the operator.
        forward, backward: kernel and gradient; see :func:`deim.layers.ops.deform_attn` for shapes. Their results must
            not share memory with their inputs.
        dtype: dtype that inputs are converted to; None if the kernel supports all floating-point dtypes.
    """
    attend = _custom_op(name, forward, f"({_INPUTS}) -> Tensor")
    attend_backward = _custom_op(f"{name}_backward", backward, f"(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)")

    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        value, ctx.shapes, locations, weights, ctx.points = inputs
        ctx.save_for_backward(value, locations, weights)

    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        value, locations, weights = ctx.saved_tensors
        grads = attend_backward(grad, value, ctx.shapes, locations, weights, ctx.points)
        return grads[0], None, grads[1], grads[2], None

    attend.register_fake(lambda value, shapes, locations, weights, points: empty_output(value, locations))
    attend_backward.register_fake(
        lambda grad, value, shapes, locations, weights, points: _empty_gradients(value, locations, weights)
    )
    attend.register_autograd(gradients, setup_context=setup_context)

    def run(
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        locations: Tensor,
        weights: Tensor,
        num_points: Sequence[int],
    ) -> Tensor:
        shapes = [side for shape in spatial_shapes for side in shape]
        inputs = [x if dtype is None else x.to(dtype) for x in (value, locations, weights)]
        return attend(inputs[0], shapes, inputs[1], inputs[2], list(num_points)).to(value.dtype)

    return run


def _custom_op(name: str, function: Callable, schema: str) -> torch.library.CustomOpDef:
    return torch.library.custom_op(f"deim::{name}", function, mutates_args=(), schema=schema)


def empty_output(value: Tensor, locations: Tensor) -> Tensor:
    """Return an uninitialized (B, Q, H * D) tensor."""
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


def _empty_gradients(value: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return uninitialized dense tensors with the shapes of the inputs."""
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)
