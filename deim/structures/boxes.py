"""Overlap of boxes: (..., 4) XYXY tensors that broadcast against each other.

Unlike the pairwise functions of detrex and torchvision these never look at values on the host, and
pairs of matched boxes need no N x N matrix.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def area(boxes: Tensor) -> Tensor:
    """(...,) area; negative sides count as zero."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that boxes ``a`` share with boxes ``b``, of their broadcast shape (...,)."""
    return area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1))


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shared = intersection(a, b)
    return shared, area(a) + area(b) - shared


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``a`` with boxes ``b``, of their broadcast shape (...,).

    A pair of boxes that are both empty has IoU 0.
    """
    shared, union = _intersection_and_union(a, b)
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019) in [-1, 1], of the broadcast shape (...,)."""
    shared, union = _intersection_and_union(a, b)
    hull = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1)
    tiny = torch.finfo(union.dtype).tiny
    hull_area = area(hull)
    return shared / union.clamp(min=tiny) - (hull_area - union) / hull_area.clamp(min=tiny)


def box_logits(boxes: Tensor, eps: float = 1e-5) -> Tensor:
    """Inverse sigmoid of coordinates, which are first clipped to [0, 1] and kept ``eps`` away from the ends."""
    boxes = boxes.clamp(0, 1)
    return boxes.clamp(min=eps).log() - (1 - boxes).clamp(min=eps).log()


def correct_boxes(references: Tensor, correction: Tensor, eps: float = 1e-5) -> Tensor:
    """Boxes (..., 4) whose logits are those of the references and a correction (Deformable DETR, A.3 and A.4).

    Args:
        references: (..., 4) cxcywh, or (..., 2) points: then the correction says the size by itself.
        correction: (..., 4).
    """
    logits = box_logits(references, eps)
    if logits.shape[-1] == 2:
        logits = F.pad(logits, (0, 2))
    return (correction + logits).sigmoid()
