"""Fused training-mode batch normalization and activation in C, for CPUs.

Both operations are memory-bound. The fused kernel neither writes the intermediate map nor stores it for the backward
pass, and reads the input twice instead of three times.
"""

import ctypes
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deim.layers.ops import native

SOURCE = "batch_norm.c"


class Activation(NamedTuple):
    """Activation: SiLU, or clamping to two bounds."""

    lower: float = -math.inf
    upper: float = math.inf
    silu: bool = False


class _Layout(ctypes.Structure):
    _fields_ = [
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("lower", ctypes.c_float),
        ("upper", ctypes.c_float),
        ("silu", ctypes.c_int32),
    ]


def unavailable_reason(x: Tensor) -> str | None:
    """Return why the kernel cannot be used for a map (B, C, H, W); None if it can."""
    if not x.is_cpu or x.dtype != torch.float32 or not x.is_contiguous(memory_format=torch.channels_last):
        return "it supports only float32, channels-last, on a CPU"
    if x.numel() <= x.shape[1]:
        return "each channel has only one value"
    return native.unavailable_reason(SOURCE)


class BatchNorm(torch.autograd.Function):
    """``activation(batch_norm(x))``, with the batch statistics for updating running statistics.

    Call it as ``BatchNorm.apply(x, weight, bias, bound, eps, activation)``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bound: Tensor | None, eps: float, activation: Activation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize a feature map.

        Args:
            x: (B, C, H, W), for which :func:`unavailable_reason` returns None.
            weight, bias: (C,).
            bound: one-element tensor that receives the summed gradient of all clamped values; None for constant bounds.
            eps: added to variances.
            activation: see :class:`Activation`.

        Returns:
            the output (B, C, H, W) in the memory layout of ``x``, and the mean and biased variance (C,) without
            gradients.
        """
        mean, variance, scale_shift = (x.new_empty(*size, x.shape[1]) for size in ((), (), (2,)))
        out = torch.empty_like(x)
        tensors = (x, weight.contiguous(), bias.contiguous(), mean, variance, scale_shift, out)
        _call("batch_norm_forward", tensors, x, 4, eps, activation)
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(x, mean, variance, scale_shift)
        ctx.eps, ctx.activation, ctx.has_learned_bound = eps, activation, bound is not None
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, variance, scale_shift = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        grad_x = torch.empty_like(x)
        grad_weight, grad_bias, grad_bound = (torch.empty_like(mean) for _ in range(3))
        tensors = (gradient, x, mean, variance, scale_shift, grad_x, grad_weight, grad_bias, grad_bound)
        _call("batch_norm_backward", tensors, x, 5, ctx.eps, ctx.activation)
        return (
            grad_x,
            grad_weight,
            grad_bias,
            grad_bound.sum().reshape(1) if ctx.has_learned_bound else None,
            None,
            None,
        )


def _call(function: str, tensors: tuple[Tensor, ...], x: Tensor, sums: int, eps: float, activation: Activation) -> None:
    """Call a library function with a buffer for ``sums`` values per channel and part."""
    channels, threads = x.shape[1], torch.get_num_threads()
    buffer = x.new_empty(threads, sums, channels, dtype=torch.float64)
    layout = _Layout(x.numel() // channels, channels, threads, *activation)
    native.call(SOURCE, function, (*tensors, buffer), ctypes.c_float(eps), layout)
