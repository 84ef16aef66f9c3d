"""Overlap of boxes: (..., 4) XYXY tensors that broadcast against each other.

Unlike the pairwise functions of detrex and torchvision these never look at values on the host, and
pairs of matched boxes need no N x N matrix.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def area(boxes: Tensor) -> Tensor:
    """(...,) area; negative sides count as zero."""
    return _area(boxes.unbind(dim=-1))


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that boxes ``a`` share with boxes ``b``, of their broadcast shape (...,)."""
    return _shared(a.unbind(dim=-1), b.unbind(dim=-1))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``a`` with boxes ``b``, of their broadcast shape (...,).

    A pair of boxes that are both empty has IoU 0.
    """
    return _share(*_shared_and_union(a.unbind(dim=-1), b.unbind(dim=-1)))


def iou_and_generalized(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`iou`, and GIoU (Rezatofighi et al. 2019) in [-1, 1], of the broadcast shape (...,)."""
    return _iou_and_generalized(a.unbind(dim=-1), b.unbind(dim=-1))


def pairwise_generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of each of the boxes (..., Q, 4) with each of (..., T, 4): (..., Q, T)."""
    # Each coordinate by itself in memory, which takes a fifth of the time of so many rows of four.
    rows, columns = a.movedim(-1, 0).contiguous()[..., None], b.movedim(-1, 0).contiguous()[..., None, :]
    return _iou_and_generalized(rows.unbind(), columns.unbind())[1]


Sides = Sequence[Tensor]  # left, top, right and bottom


def _area(sides: Sides) -> Tensor:
    left, top, right, bottom = sides
    return (right - left).clamp(min=0) * (bottom - top).clamp(min=0)


def _shared(a: Sides, b: Sides) -> Tensor:
    low = [torch.maximum(one, other) for one, other in zip(a[:2], b[:2], strict=True)]
    high = [torch.minimum(one, other) for one, other in zip(a[2:], b[2:], strict=True)]
    return _area([*low, *high])


def _shared_and_union(a: Sides, b: Sides) -> tuple[Tensor, Tensor]:
    shared = _shared(a, b)
    return shared, _area(a) + _area(b) - shared


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=torch.finfo(whole.dtype).tiny)


def _iou_and_generalized(a: Sides, b: Sides) -> tuple[Tensor, Tensor]:
    shared, union = _shared_and_union(a, b)
    low = [torch.minimum(one, other) for one, other in zip(a[:2], b[:2], strict=True)]
    high = [torch.maximum(one, other) for one, other in zip(a[2:], b[2:], strict=True)]
    hull, overlap = _area([*low, *high]), _share(shared, union)
    return overlap, overlap - _share(hull - union, hull)


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
