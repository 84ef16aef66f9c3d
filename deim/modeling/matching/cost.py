"""Cost of matching a query with an object."""

from dataclasses import dataclass

import torch
from detrex.layers import box_cxcywh_to_xyxy
from torch import Tensor

from deim.structures.boxes import pairwise_giou
from deim.structures.predictions import Targets


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
        """Compute the cost of all pairs of queries and targets.

        Args:
            logits: (L, B, Q, K), any L sets of queries.
            boxes: (L, B, Q, 4) cxcywh.
            targets: ground truth, padded to T objects per image.

        Returns:
            (L, B, Q, T); values of padded targets have no meaning.
        """
        layers, _, queries, _ = logits.shape
        index = targets.labels[None, :, None].expand(layers, -1, queries, -1)
        probability = logits.gather(-1, index).sigmoid()
        negative = (1 - self.alpha) * probability**self.gamma * -(1 - probability + 1e-8).log()
        positive = self.alpha * (1 - probability) ** self.gamma * -(probability + 1e-8).log()
        target_boxes = targets.boxes.to(boxes.dtype)[None].expand(layers, -1, -1, -1)
        distance = torch.cdist(boxes, target_boxes, p=1)
        giou = pairwise_giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(targets.boxes)[None])
        return self.bbox_weight * distance + self.class_weight * (positive - negative) - self.giou_weight * giou
