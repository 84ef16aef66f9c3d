"""Interface of the losses that a criterion applies to each group of predictions."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from deim.modeling.losses.assignment import GroupAssignment
from deim.modeling.losses.matched_boxes import MatchedBoxes
from deim.structures.prediction_group import PredictionGroup
from deim.structures.predictions import Predictions


@dataclass
class GroupLossInputs:
    """Predictions of one group, their ground truth and their matches.

    Matches are M pairs of a query and an object, of all layers and images. ``assignment.localization`` and
    ``assignment.classification`` contain their indices; M may differ between the two.

    Attributes:
        group: group of the predictions.
        predictions: logits (L, B, Q, K), boxes (L, B, Q, 4) and, with FDR, edge distributions.
        labels: (B, T) int64 classes of the objects.
        assignment: matches for classification and for localization.
        matched_boxes: comparison of the predicted boxes with the boxes of their objects, for the localization matches.
        quality: (M,) IoU of the classification matches, without gradient.
        balance: weights () of the mean losses of matched and of unmatched queries in the distillation.
    """

    group: PredictionGroup
    predictions: Predictions
    labels: Tensor
    assignment: GroupAssignment
    matched_boxes: MatchedBoxes
    quality: Tensor
    balance: tuple[Tensor, Tensor]


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
