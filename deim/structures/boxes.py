"""Overlap of boxes: (..., 4) XYXY tensors that broadcast against each other.

Unlike the pairwise functions of detrex and torchvision these never look at values on the host, and
pairs of matched boxes need no N x N matrix.
"""

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """(...,) area; negative sides count as zero."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    overlap = torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1)
    intersection = area(overlap)
    return intersection, area(a) + area(b) - intersection


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``a`` with boxes ``b``, of their broadcast shape (...,).

    A pair of boxes that are both empty has IoU 0.
    """
    intersection, union = _intersection_and_union(a, b)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019) in [-1, 1], of the broadcast shape (...,)."""
    intersection, union = _intersection_and_union(a, b)
    hull = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1)
    tiny = torch.finfo(union.dtype).tiny
    hull_area = area(hull)
    return intersection / union.clamp(min=tiny) - (hull_area - union) / hull_area.clamp(min=tiny)
