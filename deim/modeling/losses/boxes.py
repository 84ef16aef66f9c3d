"""Losses of matched boxes."""

from torch import Tensor

from deim.modeling.losses.group_loss import GroupLossInputs


class BoxL1Loss:
    """L1 distance of matched boxes (cxcywh), summed over the matches of a layer and divided by their normalizer.

    Args:
        weight: factor of the loss in the total loss.
    """

    def __init__(self, weight: float = 1.0):
        self.weight = weight

    def __call__(self, inputs: GroupLossInputs) -> Tensor:
        """Return the (L,) losses of the layers."""
        return inputs.assignment.localization.sum_by_layer(inputs.matched_boxes.l1, len(inputs.predictions.boxes))


class BoxGIoULoss:
    """``1 - GIoU`` of matched boxes, summed over the matches of a layer and divided by their normalizer.

    Args:
        weight: factor of the loss in the total loss.
    """

    def __init__(self, weight: float = 1.0):
        self.weight = weight

    def __call__(self, inputs: GroupLossInputs) -> Tensor:
        """Return the (L,) losses of the layers."""
        losses = 1 - inputs.matched_boxes.giou
        return inputs.assignment.localization.sum_by_layer(losses, len(inputs.predictions.boxes))
