"""Deformable-attention operator in plain torch: the reference implementation, for all devices and export."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deim.layers.tracing import sizes_to_tensor


def deform_attn_torch(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """See :func:`deim.layers.ops.deform_attn`."""
    batch, tokens, heads, dim = value.shape
    queries = locations.shape[1]
    # Merge heads into the batch dimension: (B * H, D, S), (B * H, Q, P, 2) and (B * H, 1, Q, P).
    maps = value.permute(0, 2, 3, 1).reshape(batch * heads, dim, tokens)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, weights.shape[-1])

    samples = []
    levels = maps.split([h * w for h, w in spatial_shapes], dim=-1)
    for (h, w), level, grid in zip(spatial_shapes, levels, grids.split(list(num_points), dim=2), strict=True):
        samples.append(F.grid_sample(level.unflatten(-1, (h, w)), grid.to(level.dtype), align_corners=False))
    attended = (torch.cat(samples, dim=-1) * weights).sum(dim=-1)
    return attended.view(batch, heads * dim, queries).transpose(1, 2)


def deform_attn_gather(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """Compute :func:`deim.layers.ops.deform_attn` without grid sampling.

    Four pixels are gathered for each point; pixels outside of the map get weight zero.
    """
    indices, bilinear_weights, start = [], [], 0
    for (h, w), points in zip(spatial_shapes, locations.split(list(num_points), dim=3), strict=True):
        columns, rows = _neighbors(points[..., 0], w), _neighbors(points[..., 1], h)
        indices += [start + row * w + column for column, _ in columns for row, _ in rows]
        bilinear_weights += [x_weight * y_weight for _, x_weight in columns for _, y_weight in rows]
        start += h * w
    repeated = torch.cat([part.repeat(1, 1, 1, 4) for part in weights.split(list(num_points), dim=3)], dim=-1)
    return _attend(value, torch.cat(indices, dim=-1), torch.cat(bilinear_weights, dim=-1) * repeated)


def _neighbors(position: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return the (index, weight) of the pixels before and after positions in [0, 1] of an axis; weight 0 outside."""
    pixel_position = position * length - 0.5
    lower = pixel_position.floor()
    neighbors = []
    for pixel, weight in ((lower, 1 - (pixel_position - lower)), (lower + 1, pixel_position - lower)):
        inside = pixel.clamp(0, length - 1)
        neighbors.append((inside.long(), weight * (inside == pixel).to(weight.dtype)))
    return neighbors


def _attend(value: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums (B, Q, H * D) of the tokens of ``value`` (B, S, H, D) at indices (B, Q, H, P)."""
    index, weights = index.transpose(1, 2), weights.transpose(1, 2)  # (B, H, Q, P)
    maps = value.transpose(1, 2)  # (B, H, S, D)
    samples = maps.gather(2, index.flatten(2)[..., None].expand(-1, -1, -1, maps.shape[-1]))
    attended = (samples.unflatten(2, index.shape[2:]) * weights[..., None]).sum(dim=3)  # (B, H, Q, D)
    return attended.transpose(1, 2).flatten(2)


def deform_attn_nearest(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """Compute :func:`deim.layers.ops.deform_attn` with one pixel per point instead of four (RT-DETRv2, arXiv
    2407.17140, section 3.1).

    As in the official code, the pixel index is the position in pixels plus 0.5, rounded down. So a position in the
    right half of a pixel selects the next pixel to the right. Positions outside of the map use the border pixel. The
    locations get no gradient.
    """
    indices, start = [], 0
    for (h, w), points in zip(spatial_shapes, locations.split(list(num_points), dim=3), strict=True):
        pixels = (points * sizes_to_tensor([(w, h)]).to(points) + 0.5).long()
        column, row = pixels[..., 0].clamp(0, w - 1), pixels[..., 1].clamp(0, h - 1)
        indices.append(start + row * w + column)
        start += h * w
    return _attend(value, torch.cat(indices, dim=-1), weights)
