"""Anchor boxes of tokens, from which two-stage models predict."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deim.layers.tracing import cached_tensors
from deim.structures.memory import Memory


def generate_anchors(memory: Memory, size: float = 0.05, eps: float = 0.01) -> tuple[Tensor, Tensor]:
    """Return one anchor box per token, in logit space (Deformable DETR, appendix A.4).

    Args:
        memory: the tokens.
        size: side of the anchors of the finest level, relative to the image; it doubles with each level.
        eps: anchors with a center or side outside (eps, 1 - eps), or on padding, are invalid.

    Returns:
        anchors (B, S, 4), logits of cxcywh, infinite where invalid, and the (B, S, 1) bool mask of valid anchors; B is
        1 without padding. Without padding, the tensors are cached: do not modify them.
    """
    shapes, device = tuple(memory.spatial_shapes), memory.tokens.device
    if memory.padding is None or memory.valid_ratios is None:
        return unpadded_anchors(shapes, device, size, eps)
    boxes = _boxes(shapes, device, size)
    ratios = _token_ratios(memory.valid_ratios, memory.level_sizes)
    return _to_logits(
        torch.cat([boxes[..., :2] / ratios, boxes[..., 2:].expand_as(ratios)], dim=-1), eps, memory.padding
    )


def generate_points(memory: Memory, eps: float = 0.01) -> tuple[Tensor, Tensor]:
    """Return the center of each token in logit space (DETRPose, arXiv 2506.13027); for arguments see
    :func:`generate_anchors`.

    Returns:
        points (B, S, 2), finite everywhere, and the (B, S, 1) bool mask of valid points; B is 1 without padding. Without
        padding, the tensors are cached: do not modify them.
    """
    shapes, device = tuple(memory.spatial_shapes), memory.tokens.device
    if memory.padding is None or memory.valid_ratios is None:
        return unpadded_points(shapes, device, eps)
    centers = _boxes(shapes, device, 1.0)[..., :2] / _token_ratios(memory.valid_ratios, memory.level_sizes)
    return centers.logit(eps=1e-5), _is_inside(centers, eps) & ~memory.padding[..., None]


@cached_tensors
def unpadded_points(
    spatial_shapes: tuple[tuple[int, int], ...], device: torch.device, eps: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Return :func:`generate_points` without padding, for maps with these (height, width)."""
    centers = _boxes(spatial_shapes, device, 1.0)[..., :2]
    return centers.logit(eps=1e-5), _is_inside(centers, eps)


def _token_ratios(valid_ratios: Tensor, level_sizes: Sequence[int]) -> Tensor:
    """Return the (B, S, 2) valid ratio of the level of each token, from (B, L, 2) ratios."""
    levels = zip(valid_ratios.split(1, dim=1), level_sizes, strict=True)
    return torch.cat([ratio.expand(-1, tokens, -1) for ratio, tokens in levels], dim=1)


@cached_tensors
def unpadded_anchors(
    spatial_shapes: tuple[tuple[int, int], ...], device: torch.device, size: float, eps: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Return :func:`generate_anchors` without padding, for maps with these (height, width)."""
    return _to_logits(_boxes(spatial_shapes, device, size), eps)


def _boxes(spatial_shapes: tuple[tuple[int, int], ...], device: torch.device, size: float) -> Tensor:
    """Return (1, S, 4) cxcywh relative to the maps."""
    levels = []
    for level, (height, width) in enumerate(spatial_shapes):
        y, x = torch.meshgrid(
            (torch.arange(height, device=device) + 0.5) / height,
            (torch.arange(width, device=device) + 0.5) / width,
            indexing="ij",
        )
        side = torch.full_like(x, size * 2.0**level)
        levels.append(torch.stack([x, y, side, side], dim=-1).flatten(0, 1))
    return torch.cat(levels)[None]


def _to_logits(boxes: Tensor, eps: float, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
    valid = _is_inside(boxes, eps)
    if padding is not None:
        valid = valid & ~padding[..., None]
    return torch.where(valid, boxes.logit(), torch.inf), valid


def _is_inside(coordinates: Tensor, eps: float) -> Tensor:
    """Return (..., 1) bool, True if all coordinates are in (eps, 1 - eps)."""
    return ((coordinates > eps) & (coordinates < 1 - eps)).all(dim=-1, keepdim=True)
