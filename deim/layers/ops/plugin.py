"""Deformable-attention operator as a single node of an exported graph, for the plugin that ships with TensorRT."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# TensorRT identifies the plugin only by the operator name.
DOMAIN, OPERATOR = "trt.plugins", "MultiscaleDeformableAttnPlugin_TRT"


def deform_attn_plugin(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """See :func:`deim.layers.ops.deform_attn`; can only be used in exports.

    The plugin requires the same number of points on each level; levels are padded with points of weight zero.
    """
    sides = [_int32(side, value.device) for shape in spatial_shapes for side in shape]
    starts = [
        _int32(sum(h * w for h, w in spatial_shapes[:level]), value.device) for level in range(len(spatial_shapes))
    ]
    symbolic: Any = torch.onnx.ops.symbolic
    attended = symbolic(
        f"{DOMAIN}::{OPERATOR}",
        (
            value,
            torch.stack(sides).view(-1, 2),
            torch.stack(starts),
            _by_level(locations, num_points),
            _by_level(weights, num_points),
        ),
        dtype=value.dtype,
        shape=(value.shape[0], locations.shape[1], *value.shape[2:]),
        version=1,
    )
    return attended.flatten(2)


def _int32(number: int, device: torch.device) -> Tensor:
    """Return a number as an int32 tensor; during tracing it is symbolic."""
    return torch.full((), number, dtype=torch.int32, device=device)


def _by_level(points: Tensor, num_points: Sequence[int]) -> Tensor:
    """Split points (B, Q, H, P, ...) by level into (B, Q, H, L, N, ...), padded with zeros."""
    trailing = (0, 0) * (points.dim() - 4)
    levels = zip(points.split(list(num_points), dim=3), num_points, strict=True)
    return torch.stack([F.pad(level, (*trailing, 0, max(num_points) - count)) for level, count in levels], dim=3)
