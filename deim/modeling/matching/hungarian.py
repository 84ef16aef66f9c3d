"""One-to-one matching (DETR, arXiv 2005.12872, section 3.1).

The costs of all layers and groups of a training step are copied to the host at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from deim.modeling.matching.cost import MatchingCost, PairwiseCost, PredictionCost
from deim.structures.precision import in_full_precision
from deim.structures.predictions import Predictions, Targets


@dataclass
class Matches:
    """M matched pairs on the host, as four (M,) int64 arrays.

    ``layer``, ``image`` and ``query`` index predictions; ``image`` and ``target`` index targets.
    """

    layer: np.ndarray
    image: np.ndarray
    query: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def max_per_image(self) -> int:
        """Largest number of pairs of a layer in one image."""
        if not len(self):
            return 0
        return int(np.bincount(self.layer * (self.image.max() + 1) + self.image).max())

    def for_layers(self, count: int) -> "Matches":
        """Repeat pairs of one layer for ``count`` layers."""
        layer = np.repeat(np.arange(count), len(self))
        return Matches(layer, *(np.tile(part, count) for part in (self.image, self.query, self.target)))

    @staticmethod
    def join(parts: Sequence["Matches"]) -> "Matches":
        """Concatenate pairs; the layers of each part start at 0."""
        layer, image, query, target = np.concatenate([part.stacked() for part in parts], axis=1)
        return Matches(layer, image, query, target)

    def stacked(self) -> np.ndarray:
        """Return (4, M): layer, image, query and target."""
        return np.stack([self.layer, self.image, self.query, self.target]).astype(np.int64)


# Replaces NaN and infinite costs if they prevent an assignment.
_NON_FINITE_COST = -1e9


class HungarianMatcher:
    """Hungarian matcher, which pairs queries with objects one-to-one at the minimum total cost.

    Args:
        cost: cost of a pair; by default :class:`MatchingCost`.
        late_cost: cost from epoch ``late_epoch`` on, as in DEIMv2; None uses ``cost`` in all epochs.
        late_epoch: first epoch of ``late_cost``, counted from 0.
        further_costs: costs of further predictions, such as masks, which are added to ``cost`` or ``late_cost``.

    Raises:
        ValueError: if only one of ``late_cost`` and ``late_epoch`` is given.
    """

    def __init__(
        self,
        cost: PairwiseCost | None = None,
        late_cost: PairwiseCost | None = None,
        late_epoch: int | None = None,
        further_costs: Sequence[PredictionCost] = (),
    ):
        if (late_cost is None) != (late_epoch is None):
            raise ValueError(
                f"late_cost and late_epoch belong together, got late_cost={late_cost} and late_epoch={late_epoch}"
            )
        self.cost = cost or MatchingCost()
        self.late_cost, self.late_epoch = late_cost, late_epoch
        self.further_costs = tuple(further_costs)

    def cost_in_epoch(self, epoch: int) -> PairwiseCost:
        """Return the cost that is used in an epoch, counted from 0."""
        if self.late_cost is None or self.late_epoch is None or epoch < self.late_epoch:
            return self.cost
        return self.late_cost

    @torch.no_grad()
    def __call__(
        self,
        groups: Sequence[Predictions],
        targets: Sequence[Targets],
        repeats: Sequence[int] | None = None,
        epoch: int = 0,
    ) -> list[Matches]:
        """Match every layer of every group separately. Costs are computed on the device and copied to the host once.

        Args:
            groups: sets of predictions, such as those of the decoder layers or of the encoder.
            targets: targets of each group.
            repeats: number of queries per object in each group; 1 by default.
            epoch: epoch of the training, counted from 0, which selects the cost.

        Returns:
            for each group min(Q, n * repeats) pairs for each layer and each image with n objects. Pairs with a NaN cost
            are matched first, so that the losses are NaN too. An exception on one rank instead would leave the other
            ranks waiting for gradients.
        """
        repeats = repeats or [1] * len(groups)
        costs = self._costs_on_host(groups, targets, self.cost_in_epoch(epoch))
        return [
            self._match(cost, group_targets.counts, group_repeats)
            for cost, group_targets, group_repeats in zip(costs, targets, repeats, strict=True)
        ]

    def _costs_on_host(
        self, groups: Sequence[Predictions], targets: Sequence[Targets], pairwise_cost: PairwiseCost
    ) -> list[np.ndarray]:
        """Return the (L, B, Q, T) costs of each group.

        The costs of groups with equal Q and the same targets object are computed together.
        """
        batches: dict[tuple[int, int], list[int]] = {}
        for index, (group, group_targets) in enumerate(zip(groups, targets, strict=True)):
            batches.setdefault((group.logits.shape[2], id(group_targets)), []).append(index)
        costs: dict[int, Tensor] = {}
        for indices in batches.values():
            logits, boxes = (
                torch.cat([in_full_precision(getattr(groups[i], name)) for i in indices])
                for name in ("logits", "boxes")
            )
            parts = pairwise_cost(logits, boxes, targets[indices[0]]).split([len(groups[i].logits) for i in indices])
            costs.update(zip(indices, parts, strict=True))
        for index, (group, group_targets) in enumerate(zip(groups, targets, strict=True)):
            further = (cost(group, group_targets) for cost in self.further_costs)
            costs[index] = sum((cost for cost in further if cost is not None), start=costs[index])
        ordered = [costs[index] for index in range(len(groups))]
        flat = torch.cat([cost.flatten() for cost in ordered]).cpu().numpy()
        boundaries = np.cumsum([cost.numel() for cost in ordered])[:-1]
        return [part.reshape(cost.shape) for part, cost in zip(np.split(flat, boundaries), ordered, strict=True)]

    def _match(self, cost: np.ndarray, counts: Sequence[int], repeats: int) -> Matches:
        matches = [np.empty((4, 0), np.int64)]
        for layer, layer_cost in enumerate(cost):
            for image, count in enumerate(counts):
                query, target = self._assign(np.tile(layer_cost[image, :, :count], repeats))
                layer_and_image = np.broadcast_to([[layer], [image]], (2, len(query)))
                matches.append(np.concatenate([layer_and_image, query[None], target[None] % max(count, 1)]))
        return Matches(*np.concatenate(matches, axis=1))

    @staticmethod
    def _assign(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the queries and targets of the pairs of one (Q, n) cost matrix."""
        try:
            return linear_sum_assignment(matrix)
        except ValueError:  # for NaN and -Inf, and for +Inf if every assignment contains +Inf
            return linear_sum_assignment(np.where(np.isfinite(matrix), matrix, _NON_FINITE_COST))
