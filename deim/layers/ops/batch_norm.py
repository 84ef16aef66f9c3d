"""Batch normalization in training and the activation behind it in C, on the CPU.

The two are limited by how fast memory is. Here the map between them is neither written nor kept for the gradients, and a
map is read twice where torch reads it three times.
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
    """SiLU, or values held between two bounds."""

    lower: float = -math.inf
    upper: float = math.inf
    silu: bool = False


class _Layout(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "channels", "parts")),
        *((name, ctypes.c_float) for name in ("lower", "upper")),
        ("silu", ctypes.c_int32),
    ]


def problem(x: Tensor) -> str | None:
    """Why it cannot be used for a map (B, C, H, W); None if it can."""
    if not x.is_cpu or x.dtype != torch.float32 or not x.is_contiguous(memory_format=torch.channels_last):
        return "it is for single precision, channels-last, on a CPU"
    if x.numel() <= x.shape[1]:
        return "there is one value of each channel"
    return native.problem(SOURCE)


class BatchNorm(torch.autograd.Function):
    """``activation(batch_norm(x))``, and the statistics that running ones follow.

    ``BatchNorm.apply(x, weight, bias, bound, eps, activation)``:

    Args:
        x: (B, C, H, W), for which there is no :func:`problem`.
        weight, bias: (C,).
        bound: of one element, with the gradient of all values that the bounds hold; None for bounds that do not learn.
        eps: added to variances.
        activation: see :class:`Activation`.

    Returns:
        (B, C, H, W) as ``x`` lies in memory; mean and biased variance (C,), without gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bound: Tensor | None, eps: float, activation: Activation
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, line = (x.new_empty(*size, x.shape[1]) for size in ((), (), (2,)))
        out = torch.empty_like(x)
        tensors = (x, weight.contiguous(), bias.contiguous(), mean, variance, line, out)
        _call("batch_norm_forward", tensors, x, 4, eps, activation)
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(x, mean, variance, line)
        ctx.eps, ctx.activation, ctx.learns_bound = eps, activation, bound is not None
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, variance, line = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = torch.empty_like(x)
        of_weight, of_bias, held = (torch.empty_like(mean) for _ in range(3))
        tensors = (gradient, x, mean, variance, line, of_x, of_weight, of_bias, held)
        _call("batch_norm_backward", tensors, x, 5, ctx.eps, ctx.activation)
        return of_x, of_weight, of_bias, held.sum().reshape(1) if ctx.learns_bound else None, None, None


def _call(function: str, tensors: tuple[Tensor, ...], x: Tensor, sums: int, eps: float, activation: Activation) -> None:
    """A function of the library, with room for so many sums of each channel in each of its parts."""
    channels, threads = x.shape[1], torch.get_num_threads()
    room = x.new_empty(threads, sums, channels, dtype=torch.float64)
    layout = _Layout(x.numel() // channels, channels, threads, *activation)
    native.call(SOURCE, function, (*tensors, room), ctypes.c_float(eps), layout)
