"""One-to-one matching (DETR, arXiv 2005.12872, section 3.1) of all layers of a step at once."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from deim.modeling.matching.cost import MatchingCost
from deim.structures.predictions import Targets


@dataclass
class Matches:
    """M matched pairs on the host: four (M,) int64 arrays.

    ``layer``, ``image`` and ``query`` index predictions; ``image`` and ``target`` the targets.
    """

    layer: np.ndarray
    image: np.ndarray
    query: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.layer)

    def layers(self, start: int, stop: int) -> "Matches":
        """The pairs of layers ``start`` .. ``stop - 1``, these counted from 0 anew."""
        chosen = (self.layer >= start) & (self.layer < stop)
        return Matches(self.layer[chosen] - start, self.image[chosen], self.query[chosen], self.target[chosen])

    def for_layers(self, count: int) -> "Matches":
        """Pairs of one layer, repeated for ``count`` layers."""
        layer = np.repeat(np.arange(count), len(self))
        return Matches(layer, *(np.tile(part, count) for part in (self.image, self.query, self.target)))

    def stacked(self) -> np.ndarray:
        """(4, M) layer, image, query and target."""
        return np.stack([self.layer, self.image, self.query, self.target]).astype(np.int64)


class HungarianMatcher:
    """Assigns to every object a query of its own, so that the summed cost is smallest."""

    def __init__(self, cost: MatchingCost | None = None):
        self.cost = cost or MatchingCost()

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Matches:
        """
        Costs are computed on the device for all layers together and copied to the host once.

        Args:
            logits: (L, B, Q, K) of any L sets of Q queries, each matched by itself.
            boxes: (L, B, Q, 4) cxcywh.

        Returns:
            min(Q, n) pairs for each layer and each image of n objects.

        Raises:
            FloatingPointError: a prediction is NaN or infinite.
        """
        cost = self.cost(logits.float(), boxes.float(), targets).cpu().numpy()
        pairs = [np.empty((4, 0), np.int64)]
        for layer, of_layer in enumerate(cost):
            for image, count in enumerate(targets.counts):
                query, target = self._assign(of_layer[image, :, :count], image)
                where = np.broadcast_to([[layer], [image]], (2, len(query)))
                pairs.append(np.concatenate([where, query[None], target[None]]))
        return Matches(*np.concatenate(pairs, axis=1))

    @staticmethod
    def _assign(matrix: np.ndarray, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Queries and targets of the pairs of one (Q, n) cost matrix."""
        try:
            return linear_sum_assignment(matrix)
        except ValueError as error:
            raise FloatingPointError(
                f"the matching cost of image {image} of the batch is NaN or infinite: the model's predictions "
                "have diverged (lower the learning rate or clip gradients), or its input was not finite"
            ) from error
