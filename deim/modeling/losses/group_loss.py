"""Interface of the losses that a criterion applies to each group of predictions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from deim.modeling.losses.assignment import GroupAssignment
from deim.modeling.losses.matched_boxes import MatchedBoxes
from deim.modeling.losses.matched_masks import MaskPointSampler, MatchedMasks, sample_matched_masks
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions, Targets


@dataclass
class GroupLossInputs:
    """Predictions of one group, their ground truth and their matches.

    Matches are M pairs of a query and an object, of all layers and images. ``assignment.localization`` and
    ``assignment.classification`` contain their indices; M may differ between the two.

    Attributes:
        group: group of the predictions.
        predictions: logits (L, B, Q, K), boxes (L, B, Q, 4) and, with FDR, edge distributions.
        targets: ground truth; its labels (B, T) are 0 for a class-agnostic group.
        assignment: matches for classification and for localization.
        matched_boxes: comparison of the predicted boxes with the boxes of their objects, for the localization matches.
        quality: (M,) quality of the classification matches, such as the IoU, without gradient.
        balance: weights () of the mean losses of matched and of unmatched queries in the distillation.
        mask_sampler: choice of the points at which masks are compared.
        is_class_agnostic: whether the group does not distinguish classes.
    """

    group: PredictionGroup
    predictions: Predictions
    targets: Targets
    assignment: GroupAssignment
    matched_boxes: MatchedBoxes
    quality: Tensor
    balance: tuple[Tensor, Tensor]
    mask_sampler: MaskPointSampler
    is_class_agnostic: bool = False

    @property
    def labels(self) -> Tensor:
        """(B, T) int64 classes of the objects."""
        return self.targets.labels

    @cached_property
    def matched_masks(self) -> MatchedMasks | None:
        """Masks of the classification matches at sampled points, which all mask losses share; None without masks."""
        masks = self.predictions.masks
        if masks is None or self.targets.masks is None:
            return None
        return sample_matched_masks(masks, self.targets, self.assignment.classification, self.mask_sampler)


class GroupLoss(Protocol):
    """Loss of a group of predictions. Any class with this interface can be listed in ``criterion.losses``.

    A loss that is an ``nn.Module`` becomes a submodule of the criterion.

    Attributes:
        weight: factor of the loss in the total loss.
    """

    weight: float

    def __call__(self, inputs: GroupLossInputs) -> Tensor | None:
        """Compute the loss of each layer.

        Returns:
            (N,) unweighted losses of the first N layers, N at most L; None if the loss does not apply to the group.
        """
        ...
