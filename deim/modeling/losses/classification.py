"""Classification losses."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deim.modeling.losses import functional
from deim.modeling.losses.group_loss import GroupLossInputs


class ClassificationLoss:
    """Base class of losses with one value per logit. A subclass implements :meth:`elementwise`.

    Args:
        weight: factor of the loss in the total loss.
        class_weights: factor of the losses of each class, K numbers of at least 0, for matched and unmatched queries
            alike. Class-agnostic groups ignore them. None for equal weights.

    Raises:
        ValueError: if a class weight is negative.
    """

    def __init__(self, weight: float = 1.0, class_weights: Sequence[float] | None = None):
        self.weight = weight
        self.class_weights = None if class_weights is None else [float(value) for value in class_weights]
        if self.class_weights is not None and not all(value >= 0 for value in self.class_weights):
            raise ValueError(f"class_weights must be at least 0, got {self.class_weights}")

    def elementwise(self, logits: Tensor, positive: Tensor, quality: Tensor) -> Tensor:
        """Compute the loss of each logit.

        Args:
            logits: (L, B, Q, K).
            positive: (L, B, Q, K) bool, True at the class of the matched object.
            quality: (L, B, Q, K) quality of the match, such as the IoU, where ``positive`` is True; 0 elsewhere.

        Returns:
            (L, B, Q, K).
        """
        raise NotImplementedError

    def __call__(self, inputs: GroupLossInputs) -> Tensor:
        """Return the (L,) sums over the logits of a layer, divided by the normalizer of the matches."""
        matches, logits = inputs.assignment.classification, inputs.predictions.logits
        label = inputs.labels[matches.image, matches.target]
        index = (matches.layer, matches.image, matches.query, label)
        positive = torch.zeros_like(logits, dtype=torch.bool).index_put(index, torch.ones_like(label).bool())
        quality = torch.zeros_like(logits).index_put(index, inputs.quality)
        loss = self.elementwise(logits, positive, quality)
        if self.class_weights is not None and not inputs.is_class_agnostic:
            # `new_tensor` would wait for the device.
            loss = loss * torch.tensor(self.class_weights, dtype=loss.dtype).to(loss.device, non_blocking=True)
        mask = inputs.assignment.classification_mask
        if mask is not None:
            loss = loss * mask[None, :, :, None]
        return loss.sum(dim=(1, 2, 3)) / matches.normalizer


class MatchabilityAwareLoss(ClassificationLoss):
    """Matchability-aware loss (MAL, DEIM); see :func:`deim.modeling.losses.functional.matchability_aware_loss`.

    Args:
        weight: factor of the loss in the total loss.
        gamma: exponent of the target.
        alpha: additional weight of negatives; None for none.
        class_weights: see :class:`ClassificationLoss`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        gamma: float = 1.5,
        alpha: float | None = None,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(weight, class_weights)
        self.gamma, self.alpha = gamma, alpha

    def elementwise(self, logits: Tensor, positive: Tensor, quality: Tensor) -> Tensor:
        return functional.matchability_aware_loss(logits, positive, quality, self.gamma, self.alpha)


class VarifocalLoss(ClassificationLoss):
    """Varifocal loss (VFL, RT-DETR and D-FINE); see :func:`deim.modeling.losses.functional.varifocal_loss`.

    Args:
        weight: factor of the loss in the total loss.
        alpha, gamma: weight and focusing parameter of negatives.
        class_weights: see :class:`ClassificationLoss`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        alpha: float = 0.75,
        gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(weight, class_weights)
        self.alpha, self.gamma = alpha, gamma

    def elementwise(self, logits: Tensor, positive: Tensor, quality: Tensor) -> Tensor:
        return functional.varifocal_loss(logits, positive, quality, self.alpha, self.gamma)


class FocalLoss(ClassificationLoss):
    """Sigmoid focal loss (Deformable DETR); see :func:`deim.modeling.losses.functional.focal_loss`.

    Args:
        weight: factor of the loss in the total loss.
        alpha, gamma: class balance and focusing parameter; a negative alpha disables the class balance.
        class_weights: see :class:`ClassificationLoss`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(weight, class_weights)
        self.alpha, self.gamma = alpha, gamma

    def elementwise(self, logits: Tensor, positive: Tensor, quality: Tensor) -> Tensor:
        return functional.focal_loss(logits, positive, self.alpha, self.gamma)


CLASSIFICATION_LOSSES: dict[str, Callable[..., ClassificationLoss]] = {
    "mal": MatchabilityAwareLoss,
    "vfl": VarifocalLoss,
    "focal": FocalLoss,
}
