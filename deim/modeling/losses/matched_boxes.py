"""Fit of predicted boxes to their assigned objects, for the pairs of all groups at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detrex.layers import box_cxcywh_to_xyxy
from torch import Tensor

from deim.modeling.losses import functional
from deim.modeling.losses.assignment import Pairs
from deim.structures.boxes import iou, iou_and_giou


@dataclass
class Fit:
    """Fit of the M pairs of a group.

    Attributes:
        wanted: (M, 4) XYXY boxes of the objects.
        l1: (M,) summed absolute difference of the coordinates (cxcywh).
        giou: (M,) GIoU in [-1, 1].
        iou: (M,) IoU, without gradient.
    """

    wanted: Tensor
    l1: Tensor
    giou: Tensor
    iou: Tensor


def compare_matched_boxes(predicted: Sequence[Tensor], pairs: Sequence[Pairs], targets: Tensor) -> list[Fit]:
    """Return the fit of each group.

    Args:
        predicted: (L, B, Q, 4) cxcywh of each group; L and Q may differ between groups.
        pairs: pairs of each group.
        targets: (B, T, 4) cxcywh.
    """
    found, wanted = _gather_matched_boxes(predicted, pairs, targets)
    corners = box_cxcywh_to_xyxy(wanted)
    overlap, generalized = iou_and_giou(box_cxcywh_to_xyxy(found), corners)
    values = (corners, functional.l1_loss(found, wanted), generalized, overlap.detach())
    sizes = [len(one.layer) for one in pairs]
    return [Fit(*parts) for parts in zip(*(value.split(sizes) for value in values), strict=True)]


@torch.no_grad()
def matched_ious(predicted: Sequence[Tensor], pairs: Sequence[Pairs], targets: Tensor) -> list[Tensor]:
    """Return the (M,) IoU of the pairs of each group, without gradient; see :func:`compare_matched_boxes`."""
    found, wanted = (box_cxcywh_to_xyxy(boxes) for boxes in _gather_matched_boxes(predicted, pairs, targets))
    return list(iou(found, wanted).split([len(one.layer) for one in pairs]))


def _gather_matched_boxes(
    predicted: Sequence[Tensor], pairs: Sequence[Pairs], targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the predicted boxes of the pairs of all groups, and the boxes of their objects, both (M, 4) cxcywh."""
    found = torch.cat([one.take(boxes) for one, boxes in zip(pairs, predicted, strict=True)])
    image, target = (torch.cat([getattr(one, name) for one in pairs]) for name in ("image", "target"))
    return found, targets[image, target]
