"""Deformable-attention operator as Triton kernels for GPUs, compiled on first use.

``TRITON_INTERPRET=1`` runs the kernels slowly on the CPU, for testing.
"""

import functools
import importlib.util

import torch
from torch import Tensor

from deim.layers.ops.operator import empty_output, register_operator
from deim.layers.ops.torch_backend import deform_attn_torch
from deim.layers.tracing import cached_tensors


@functools.cache
def unavailable_reason() -> str | None:
    """Return why this backend cannot be used; None if its results on this machine match those of torch."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not torch.cuda.is_available():
        return "no CUDA GPU is available"
    try:
        difference = _difference_from_torch(torch.device("cuda"))
    except Exception as error:  # compilers and drivers raise arbitrary errors
        return f"the kernels cannot be compiled or run: {type(error).__name__}: {error}"
    return None if difference < 1e-4 else f"the results of the kernels differ from torch by {difference:.1e}"


@torch.inference_mode(False)  # the first call may come from a model in inference mode
@torch.enable_grad()
def _difference_from_torch(device: torch.device) -> float:
    """Return the largest relative difference of outputs and gradients from torch on a small example."""
    generator = torch.Generator().manual_seed(0)
    shapes, points = [(5, 7), (3, 4)], [3, 2]
    inputs = [
        torch.randn(2, 47, 2, 8, generator=generator),
        torch.rand(2, 9, 2, 5, 2, generator=generator) * 1.4 - 0.2,
        torch.rand(2, 9, 2, 5, generator=generator),
    ]
    results = []
    for attend in (deform_attn_torch, deform_attn_triton):
        leaves = [x.to(device).requires_grad_() for x in inputs]
        output = attend(leaves[0], shapes, leaves[1], leaves[2], points)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    return max(float((a - b).detach().abs().max() / a.detach().abs().max()) for a, b in zip(*results, strict=True))


def _forward(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor, points: list[int]) -> Tensor:
    from deim.layers.ops import triton_kernels as kernels

    out = empty_output(value, locations)
    levels = _levels(tuple(shapes), tuple(points), value.device)
    kernels.launch(kernels.forward, value, locations, weights, levels, [out])
    return out


def _backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor, points: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    from deim.layers.ops import triton_kernels as kernels

    # Accumulated in float32: float16 would round off the contributions of many samples to one pixel.
    grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
    grad_locations, grad_weights = locations.new_empty(locations.shape), weights.new_empty(weights.shape)
    levels = _levels(tuple(shapes), tuple(points), value.device)
    kernels.launch(
        kernels.backward,
        value,
        locations,
        weights,
        levels,
        [grad.contiguous(), grad_value, grad_locations, grad_weights],
    )
    return grad_value.to(value.dtype), grad_locations, grad_weights


deform_attn_triton = register_operator("deform_attn_triton", _forward, _backward)


@cached_tensors
def _levels(shapes: tuple[int, ...], points: tuple[int, ...], device: torch.device) -> Tensor:
    """Return (P, 3) int32: height, width and first token of each point's map. Cached: do not modify the result."""
    rows, start = [], 0
    for height, width, count in zip(shapes[::2], shapes[1::2], points, strict=True):
        rows += [[height, width, start]] * count
        start += height * width
    return torch.tensor(rows, dtype=torch.int32).to(device)
