"""Assignment of queries to objects for all groups of a training step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from deim.modeling.losses.supervision import Supervision
from deim.modeling.matching import HungarianMatcher, Matches, union_of_matches
from deim.modeling.queries.denoising import DenoisingGroups
from deim.structures.predictions import Predictions, Targets


@dataclass
class Pairs:
    """M pairs on the device, and the normalizer of losses over them.

    Attributes:
        layer, image, query, target: (M,) int64 indices.
        normalizer: () mean number of objects per rank, at least 1.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor
    normalizer: Tensor

    @staticmethod
    def of(stacked: Tensor, normalizer: Tensor) -> "Pairs":
        """Create pairs from the (4, M) rows of :meth:`Matches.stacked`."""
        layer, image, query, target = stacked.unbind()
        return Pairs(layer, image, query, target, normalizer)

    def take(self, predicted: Tensor) -> Tensor:
        """Select (L, B, Q, ...) -> (M, ...)."""
        return predicted[self.layer, self.image, self.query]

    def sum_by_layer(self, values: Tensor, layers: int) -> Tensor:
        """Sum (M,) -> (layers,), divided by the normalizer."""
        return values.new_zeros(layers).index_add(0, self.layer, values) / self.normalizer


@dataclass
class GroupAssignment:
    """Assignment of one group.

    Attributes:
        classes: pairs for classification.
        boxes: pairs for localization.
        matched: () mean number per rank of queries of a layer that are matched for localization.
        others: () mean number per rank of queries of a layer that are not matched for localization.
        classified: (B, Q) bool, queries with a classification loss; None for all queries.
    """

    classes: Pairs
    boxes: Pairs
    matched: Tensor
    others: Tensor
    classified: Tensor | None = None


@dataclass
class _Plan:
    """Assignment of one group on the host; ``objects`` and ``located`` are the normalizers before reduction."""

    classes: Matches
    boxes: Matches
    objects: float
    located: float
    matched: int
    queries: int


def assign(
    supervision: Sequence[Supervision],
    predictions: Sequence[Predictions],
    targets: Targets,
    denoising: DenoisingGroups | None,
    matcher: HungarianMatcher,
    use_union: bool,
) -> list[GroupAssignment]:
    """Match all groups of a step together.

    Costs are copied to the host once, pairs are copied back once, and all normalizers are reduced over ranks together.

    Args:
        supervision: supervision of each group.
        predictions: predictions of each group.
        targets: ground truth of the batch.
        denoising: queries of the denoising groups; required if a denoising group is supervised.
        matcher: matcher of all groups but the denoising groups.
        use_union: use the union of the matches of all layers and one-to-one groups for localization.

    Raises:
        ValueError: if ``denoising`` is missing.
    """
    pairs = list(zip(supervision, predictions, strict=True))
    matched = iter(_plan_matched([one for one in pairs if not one[0].denoising], targets, matcher, use_union))
    plans = [_plan_denoising(len(p.logits), targets, denoising) if s.denoising else next(matched) for s, p in pairs]
    assignments = _on_device(plans, targets.boxes.device)
    for s, assignment in zip(supervision, assignments, strict=True):
        if s.denoising and denoising is not None:
            assignment.classified = denoising.classified
    return assignments


def _plan_matched(
    groups: Sequence[tuple[Supervision, Predictions]],
    targets: Targets,
    matcher: HungarianMatcher,
    use_union: bool,
) -> list[_Plan]:
    matches = matcher([p for _, p in groups], [s.targets(targets) for s, _ in groups], [s.repeats for s, _ in groups])
    one_to_one = [found for (s, _), found in zip(groups, matches, strict=True) if s.one_to_one]
    union = union_of_matches(Matches.join(one_to_one)) if use_union and one_to_one else None
    plans = []
    for (s, predictions), classes in zip(groups, matches, strict=True):
        layers, images, queries, _ = predictions.logits.shape
        objects = targets.total * s.repeats
        located, located_objects = classes, objects
        if union is not None and s.one_to_one:
            located, located_objects = union.for_layers(layers), len(union)
        plan = _Plan(
            classes, located, objects, located_objects, matched=len(located) // layers, queries=images * queries
        )
        plans.append(plan)
    return plans


def _plan_denoising(layers: int, targets: Targets, denoising: DenoisingGroups | None) -> _Plan:
    """Assign target t of an image to positive t of every denoising group."""
    if denoising is None:
        raise ValueError("a denoising group is supervised, but its denoising queries are missing")
    counts, groups = targets.counts, denoising.num_groups
    image = np.repeat(np.arange(len(counts)), counts)
    target = np.concatenate([np.arange(n) for n in counts])
    starts = np.arange(groups) * denoising.group_size
    query = (starts[:, None] + target).flatten()
    once = Matches(np.zeros_like(query), np.tile(image, groups), query, np.tile(target, groups))
    pairs = once.for_layers(layers)
    # Normalized by the mean number of objects times the number of groups of this rank, as in the official code.
    scale = max(groups, 1)
    return _Plan(pairs, pairs, targets.total * scale, targets.total * scale, len(once), len(counts) * len(denoising))


def _on_device(plans: Sequence[_Plan], device: torch.device) -> list[GroupAssignment]:
    parts = [part for plan in plans for part in (plan.classes, plan.boxes)]
    joined = np.concatenate([part.stacked() for part in parts], axis=1)
    pairs = torch.from_numpy(joined).to(device, non_blocking=True).split([len(part) for part in parts], dim=1)

    numbers = [[p.objects, p.located, p.matched, p.queries] for p in plans]
    means = torch.tensor([float(n) for row in numbers for n in row]).to(device, non_blocking=True)
    if comm.get_world_size() > 1:
        dist.all_reduce(means)
        means = means / comm.get_world_size()
    assignments = []
    for classes, boxes, of_group in zip(pairs[::2], pairs[1::2], means.view(-1, 4), strict=True):
        objects, located, matched, queries = of_group.unbind()
        normalizers = objects.clamp(min=1), located.clamp(min=1)
        assignments.append(
            GroupAssignment(
                Pairs.of(classes, normalizers[0]), Pairs.of(boxes, normalizers[1]), matched, queries - matched
            )
        )
    return assignments
