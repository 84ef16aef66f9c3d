"""A learnable affine after normalisation and ReLU, which costs no pass over memory of its own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from deim.layers.normalization import in_one_step, normalize_in_one_step
from deim.layers.ops.batch_norm import Activation


class LearnableAffine(nn.Module):
    """``scale * x + bias`` with two scalars; lets small networks use a ReLU better."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * x).add_(self.bias)  # in place: a pass over memory less

    def of_rectified(self, norm: nn.Module, x: Tensor) -> Tensor:
        """``self(relu(norm(x)))`` to rounding, where the normalisation does the scaling.

        ``scale * relu(y) + bias`` is ``scale * y + bias``, held on the side of ``bias`` that the sign of ``scale`` says; and a
        normalisation ends in an affine map already. Its gradients need nothing but what it returns, so that a third of
        the activations are not kept.

        Args:
            norm: with ``weight`` and ``bias``, such as BatchNorm2d.
            x: (B, C, H, W).
        """
        values: dict[str, Any] = norm.state_dict(keep_vars=True)  # parameters of the one norm, buffers of the other
        weight, bias = values["weight"] * self.scale, values["bias"] * self.scale
        if in_one_step(norm, x):
            scale, bound = self.scale.item(), self.bias.item()
            held = Activation(lower=bound) if scale > 0 else Activation(upper=bound)
            return normalize_in_one_step(norm, x, weight, bias + self.bias, held, bound=self.bias)
        parameters = {"weight": weight, "bias": bias + self.bias.detach()}
        return HoldAtBias.apply(functional_call(norm, parameters, (x,)), self.scale, self.bias)


class HoldAtBias(torch.autograd.Function):
    """Values on the wrong side of ``bias``, in floating point and of one element, become ``bias``, in place.

    All values are taken to have ``bias`` added, here or before: its gradient is that of both. Nothing is read from the
    device, which would have to be waited for.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype, bias = bias.dtype, bias.to(x.dtype)
        x.clamp_(torch.where(scale > 0, bias, -torch.inf), torch.where(scale > 0, torch.inf, bias))
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, bias)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        output, bias = ctx.saved_tensors
        return gradient * (output != bias), None, gradient.sum(dtype=ctx.dtype).reshape(1)
