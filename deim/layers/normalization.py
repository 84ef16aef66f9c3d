"""Normalization followed by an activation, fused where possible to save passes over memory."""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from deim.layers.ops import batch_norm
from deim.layers.ops.batch_norm import Activation, BatchNorm

_FUSED_ACTIVATIONS = {
    nn.Identity: Activation(),
    nn.ReLU: Activation(lower=0.0),
    nn.SiLU: Activation(silu=True),
}


def normalize(norm: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    """Compute ``activation(norm(x))``, up to rounding, for x (B, C, H, W)."""
    fused_activation = _FUSED_ACTIVATIONS.get(type(activation))
    if fused_activation is None or not can_fuse(norm, x):
        return activation(norm(x))
    return fused_normalize(norm, x, norm.weight, norm.bias, fused_activation)


def can_fuse(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Return True if :func:`fused_normalize` supports this normalization and input."""
    if type(norm) is not nn.BatchNorm2d or not norm.training or torch.compiler.is_compiling():
        return False
    return (
        norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and batch_norm.unavailable_reason(x) is None
    )


def fused_normalize(
    norm: nn.BatchNorm2d,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: Activation,
    bound: Tensor | None = None,
) -> Tensor:
    """Compute ``activation(norm(x))`` in one step, and update the running statistics of ``norm``.

    Args:
        norm: normalization in training mode.
        x: (B, C, H, W).
        weight, bias: (C,), used instead of the parameters of ``norm``.
        activation: activation to apply.
        bound: see :class:`BatchNorm`.
    """
    out, mean, variance = BatchNorm.apply(x, weight, bias, bound, norm.eps, activation)
    count = x.numel() / x.shape[1]
    running: Any = norm  # can_fuse has checked that these attributes exist
    with torch.no_grad():
        running.num_batches_tracked.add_(1)
        running.running_mean.lerp_(mean, running.momentum)
        running.running_var.lerp_(variance * (count / (count - 1)), running.momentum)
    return out
