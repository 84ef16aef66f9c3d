"""Comparison of predicted boxes with the boxes of their assigned objects, for the matches of all groups at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detrex.layers import box_cxcywh_to_xyxy
from torch import Tensor

from deim.modeling.losses import functional
from deim.modeling.losses.assignment import DeviceMatches
from deim.structures.boxes import iou, iou_and_giou


@dataclass
class MatchedBoxes:
    """Target boxes of the M matches of a group, and the overlap of the predicted boxes with them.

    Attributes:
        targets: (M, 4) XYXY boxes of the objects.
        l1: (M,) summed absolute difference of the coordinates (cxcywh).
        giou: (M,) GIoU in [-1, 1].
        iou: (M,) IoU, without gradient.
    """

    targets: Tensor
    l1: Tensor
    giou: Tensor
    iou: Tensor


def compare_matched_boxes(
    predicted: Sequence[Tensor], matches: Sequence[DeviceMatches], targets: Tensor
) -> list[MatchedBoxes]:
    """Return the matched boxes of each group.

    Args:
        predicted: (L, B, Q, 4) cxcywh of each group; L and Q may differ between groups.
        matches: matches of each group.
        targets: (B, T, 4) cxcywh.
    """
    boxes, target_boxes = _gather_matched_boxes(predicted, matches, targets)
    target_corners = box_cxcywh_to_xyxy(target_boxes)
    overlap, generalized = iou_and_giou(box_cxcywh_to_xyxy(boxes), target_corners)
    values = (target_corners, functional.l1_loss(boxes, target_boxes), generalized, overlap.detach())
    sizes = [len(group.layer) for group in matches]
    return [MatchedBoxes(*parts) for parts in zip(*(value.split(sizes) for value in values), strict=True)]


@torch.no_grad()
def matched_ious(predicted: Sequence[Tensor], matches: Sequence[DeviceMatches], targets: Tensor) -> list[Tensor]:
    """Return the (M,) IoU of the matches of each group, without gradient; see :func:`compare_matched_boxes`."""
    corners = (box_cxcywh_to_xyxy(boxes) for boxes in _gather_matched_boxes(predicted, matches, targets))
    return list(iou(*corners).split([len(group.layer) for group in matches]))


def _gather_matched_boxes(
    predicted: Sequence[Tensor], matches: Sequence[DeviceMatches], targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the predicted boxes of the matches of all groups, and the boxes of their objects, both (M, 4) cxcywh."""
    boxes = torch.cat([group.gather(layers) for group, layers in zip(matches, predicted, strict=True)])
    image, target = (torch.cat([getattr(group, name) for group in matches]) for name in ("image", "target"))
    return boxes, targets[image, target]
