"""Costs of matching a query with an object."""

from dataclasses import dataclass
from typing import Protocol

import torch
from detrex.layers import box_cxcywh_to_xyxy
from torch import Tensor

from deim.structures.boxes import pairwise_giou, pairwise_iou
from deim.structures.predictions import Predictions, Targets


class PairwiseCost(Protocol):
    """Cost of all pairs of queries and objects, such as :class:`MatchingCost`."""

    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Compute the cost of all pairs of queries and targets.

        Args:
            logits: (L, B, Q, K), any L sets of queries.
            boxes: (L, B, Q, 4) cxcywh.
            targets: ground truth, padded to T objects per image.

        Returns:
            (L, B, Q, T); values of padded targets have no meaning.
        """
        ...


class PredictionCost(Protocol):
    """Cost of all pairs of queries and objects that depends on further predictions than classes and boxes."""

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor | None:
        """Compute the cost of all pairs of queries and targets.

        Args:
            predictions: predictions of one group, with L layers and Q queries.
            targets: ground truth, padded to T objects per image.

        Returns:
            (L, B, Q, T), where values of padded targets have no meaning; None if the cost does not apply to the group.
        """
        ...


@dataclass(frozen=True)
class ClassCost:
    """Focal class cost (Deformable DETR), for models without boxes.

    Args:
        weight: factor of the cost.
        alpha, gamma: parameters of the focal loss.
    """

    weight: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Compute the cost of all pairs; see :class:`PairwiseCost`."""
        return self.weight * _focal_cost(_class_probability(logits, targets), self.alpha, self.gamma)


@dataclass(frozen=True)
class MatchingCost:
    """Weighted sum of a focal class cost, L1 and negative GIoU (Deformable DETR, DINO).

    Args:
        class_weight, bbox_weight, giou_weight: weights of the three terms.
        alpha, gamma: parameters of the focal class cost.
    """

    class_weight: float = 2.0
    bbox_weight: float = 5.0
    giou_weight: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Compute the cost of all pairs; see :class:`PairwiseCost`."""
        class_cost = _focal_cost(_class_probability(logits, targets), self.alpha, self.gamma)
        target_boxes = targets.boxes.to(boxes.dtype)[None].expand(len(boxes), -1, -1, -1)
        distance = torch.cdist(boxes, target_boxes, p=1)
        giou = pairwise_giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(targets.boxes)[None])
        return self.bbox_weight * distance + self.class_weight * class_cost - self.giou_weight * giou


@dataclass(frozen=True)
class ScoreIoUCost:
    """Negative product of the class probability and a power of the IoU (DEIMv2, for the last epochs).

    Args:
        exponent: exponent of the IoU.
    """

    exponent: float = 4.0

    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Compute the cost of all pairs; see :class:`PairwiseCost`."""
        overlap = pairwise_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(targets.boxes)[None])
        return -_class_probability(logits, targets) * overlap**self.exponent


def _class_probability(logits: Tensor, targets: Targets) -> Tensor:
    """Return the (L, B, Q, T) probability of each target's class, from logits (L, B, Q, K)."""
    layers, _, queries, _ = logits.shape
    index = targets.labels[None, :, None].expand(layers, -1, queries, -1)
    return logits.gather(-1, index).sigmoid()


def _focal_cost(probability: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss of a positive minus that of a negative, for probabilities of any shape."""
    negative = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
    positive = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
    return positive - negative
