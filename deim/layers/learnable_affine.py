"""A learnable affine after normalisation and ReLU, which costs no pass over memory of its own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

_hardtanh_backward = torch.ops.aten.hardtanh_backward


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
        bias = values["bias"] * self.scale + self.bias.detach()
        parameters = {"weight": values["weight"] * self.scale, "bias": bias}
        return HoldAtBias.apply(functional_call(norm, parameters, (x,)), self.scale, self.bias, x.is_cpu)


class HoldAtBias(torch.autograd.Function):
    """Values on the wrong side of ``bias``, in floating point and of one element, become ``bias``, in place.

    All values are taken to have ``bias`` added, here or before: its gradient is that of both. With ``by_numbers``
    bounds are read from the device, which is the faster on a CPU, and what a GPU would have to be waited for.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bias: Tensor, by_numbers: bool) -> Tensor:
        ctx.dtype, bias = bias.dtype, bias.to(x.dtype)
        lower, upper = torch.where(scale > 0, bias, -torch.inf), torch.where(scale > 0, torch.inf, bias)
        ctx.numbers = (lower.item(), upper.item()) if by_numbers else None
        x.clamp_(*ctx.numbers or (lower, upper))
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, bias)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        output, bias = ctx.saved_tensors
        if ctx.numbers is None:
            inner = gradient * (output != bias)
        else:
            inner = _hardtanh_backward(gradient, output, *ctx.numbers)
        return inner, None, gradient.sum(dtype=ctx.dtype).reshape(1), None
