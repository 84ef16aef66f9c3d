"""Backends of the deformable-attention operator.

``DEIM_DEFORM_ATTN=<name>`` forces one; otherwise the best that is available is taken.
"""

import os
from collections.abc import Callable, Sequence

from torch import Tensor

from deim.layers.ops.torch_backend import deform_attn_nearest, deform_attn_torch

__all__ = ["BACKENDS", "deform_attn", "deform_attn_nearest", "selected_backend"]

DeformAttn = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor, Sequence[int]], Tensor]

BACKENDS: dict[str, DeformAttn] = {"torch": deform_attn_torch}


def selected_backend() -> str:
    """Name of the backend that :func:`deform_attn` uses.

    Raises:
        ValueError: ``DEIM_DEFORM_ATTN`` names none.
    """
    name = os.environ.get("DEIM_DEFORM_ATTN", "torch")
    if name not in BACKENDS:
        raise ValueError(f"DEIM_DEFORM_ATTN={name!r} is no backend; choose one of {', '.join(BACKENDS)}")
    return name


def deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """Weighted sums of bilinear samples from several feature maps (Deformable DETR, equation 3).

    Args:
        value: (B, S, H, D), the levels one after the other, each row by row; S = sum of h * w.
        spatial_shapes: (h, w) of each level.
        locations: (B, Q, H, P, 2) sampling positions x, y in [0, 1] of the map, the points of the
            levels one after the other; outside of the map samples are zero.
        weights: (B, Q, H, P).
        num_points: points of each level, of sum P.

    Returns:
        (B, Q, H * D).
    """
    return BACKENDS[selected_backend()](value, spatial_shapes, locations, weights, num_points)
