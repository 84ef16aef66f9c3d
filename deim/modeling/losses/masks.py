"""Losses of matched masks."""

from torch import Tensor

from deim.modeling.losses import functional
from deim.modeling.losses.group_loss import GroupLossInputs


class _MaskLoss:
    """Base class of losses with one value per matched mask. A subclass implements :meth:`per_mask`.

    The values are summed over the matches of a layer and divided by their normalizer. The loss does not apply to groups
    without masks, and objects with an empty mask have no loss.

    Args:
        weight: factor of the loss in the total loss.
    """

    def __init__(self, weight: float = 1.0):
        self.weight = weight

    def per_mask(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Map (M, P) logits and targets to (M,) losses."""
        raise NotImplementedError

    def __call__(self, inputs: GroupLossInputs) -> Tensor | None:
        """Return the (L,) losses of the layers."""
        matched = inputs.matched_masks
        if matched is None:
            return None
        losses = self.per_mask(matched.logits, matched.targets) * matched.has_mask
        return inputs.assignment.classification.sum_by_layer(losses, len(inputs.predictions.boxes))


class MaskCrossEntropyLoss(_MaskLoss):
    """Binary cross-entropy of matched masks, averaged over sampled points.

    Args:
        weight: factor of the loss in the total loss.
    """

    def per_mask(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.mask_cross_entropy(logits, targets)


class MaskDiceLoss(_MaskLoss):
    """Dice loss of matched masks over sampled points (V-Net, arXiv 1606.04797).

    Args:
        weight: factor of the loss in the total loss.
    """

    def per_mask(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.dice_loss(logits, targets)
