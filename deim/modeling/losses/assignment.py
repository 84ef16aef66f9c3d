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
class DeviceMatches:
    """M matches on the device, and the normalizer of losses over them.

    Attributes:
        layer, image, query, target: (M,) int64 indices.
        normalizer: () divisor of sums over the matches of a layer: mean number per rank of objects (times the queries
            per object) or of matches of the union, at least 1.
        on_host: the same matches on the host.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor
    normalizer: Tensor
    on_host: Matches

    @staticmethod
    def from_stacked(stacked: Tensor, normalizer: Tensor, on_host: Matches) -> "DeviceMatches":
        """Create matches from the (4, M) rows of :meth:`Matches.stacked`."""
        layer, image, query, target = stacked.unbind()
        return DeviceMatches(layer, image, query, target, normalizer, on_host)

    def gather(self, predicted: Tensor) -> Tensor:
        """Select (L, B, Q, ...) -> (M, ...)."""
        return predicted[self.layer, self.image, self.query]

    def sum_by_layer(self, values: Tensor, layers: int) -> Tensor:
        """Sum (M,) -> (layers,), divided by the normalizer."""
        return values.new_zeros(layers).index_add(0, self.layer, values) / self.normalizer


@dataclass
class GroupAssignment:
    """Assignment of one group.

    Attributes:
        classification: matches for classification.
        localization: matches for localization.
        num_matched: () mean number per rank of queries of a layer that are matched for localization.
        num_unmatched: () mean number per rank of queries of a layer that are not matched for localization.
        classification_mask: (B, Q) bool, queries with a classification loss; None for all queries.
    """

    classification: DeviceMatches
    localization: DeviceMatches
    num_matched: Tensor
    num_unmatched: Tensor
    classification_mask: Tensor | None = None


@dataclass
class _HostAssignment:
    """Assignment of one group on the host.

    Attributes:
        classification, localization: matches for classification and for localization.
        num_objects, num_localized: normalizers of the two, before the reduction over ranks.
        num_matched: number of queries of a layer that are matched for localization.
        num_queries: number of queries of a layer, over all images.
        num_groups: number of denoising groups of this rank, by which both reduced normalizers are multiplied; 1 for
            other groups.
    """

    classification: Matches
    localization: Matches
    num_objects: float
    num_localized: float
    num_matched: int
    num_queries: int
    num_groups: int = 1


def assign(
    supervision: Sequence[Supervision],
    predictions: Sequence[Predictions],
    targets: Targets,
    denoising: DenoisingGroups | None,
    matcher: HungarianMatcher,
    use_union: bool,
    epoch: int = 0,
) -> list[GroupAssignment]:
    """Match all groups of a step together.

    Costs are copied to the host once, matches are copied back once, and all normalizers are reduced over ranks
    together.

    Args:
        supervision: supervision of each group.
        predictions: predictions of each group.
        targets: ground truth of the batch.
        denoising: queries of the denoising groups; required if a denoising group is supervised.
        matcher: matcher of all groups but the denoising groups.
        use_union: use the union of the matches of all layers and one-to-one groups for localization.
        epoch: epoch of the training, for the matcher.

    Raises:
        ValueError: if ``denoising`` is missing.
    """
    groups = list(zip(supervision, predictions, strict=True))
    by_cost = [group for group in groups if not group[0].denoising]
    matched = iter(_assign_by_cost(by_cost, targets, matcher, use_union, epoch))
    on_host = [
        _assign_denoising(len(p.logits), targets, denoising) if s.denoising else next(matched) for s, p in groups
    ]
    assignments = _to_device(on_host, targets.boxes.device)
    for s, assignment in zip(supervision, assignments, strict=True):
        if s.denoising and denoising is not None:
            assignment.classification_mask = denoising.classification_mask
    return assignments


def _assign_by_cost(
    groups: Sequence[tuple[Supervision, Predictions]],
    targets: Targets,
    matcher: HungarianMatcher,
    use_union: bool,
    epoch: int,
) -> list[_HostAssignment]:
    group_targets, repeats = [s.targets(targets) for s, _ in groups], [s.repeats for s, _ in groups]
    matches = matcher([p for _, p in groups], group_targets, repeats, epoch=epoch)
    joined = [group_matches for (s, _), group_matches in zip(groups, matches, strict=True) if s.in_union]
    union = union_of_matches(Matches.join(joined)) if use_union and joined else None
    assignments = []
    for (s, predictions), classification in zip(groups, matches, strict=True):
        layers, images, queries, _ = predictions.logits.shape
        num_objects = targets.total * s.repeats
        localization, num_localized = classification, num_objects
        if union is not None and s.in_union:
            localization, num_localized = union.for_layers(layers), len(union)
        assignments.append(
            _HostAssignment(
                classification,
                localization,
                num_objects,
                num_localized,
                num_matched=len(localization) // layers,
                num_queries=images * queries,
            )
        )
    return assignments


def _assign_denoising(layers: int, targets: Targets, denoising: DenoisingGroups | None) -> _HostAssignment:
    """Assign target t of an image to positive t of every denoising group."""
    if denoising is None:
        raise ValueError("a denoising group is supervised, but its denoising queries are missing")
    counts, groups = targets.counts, denoising.num_groups
    image = np.repeat(np.arange(len(counts)), counts)
    target = np.concatenate([np.arange(n) for n in counts])
    starts = np.arange(groups) * denoising.group_size
    query = (starts[:, None] + target).flatten()
    one_layer = Matches(np.zeros_like(query), np.tile(image, groups), query, np.tile(target, groups))
    matches = one_layer.for_layers(layers)
    # Normalized by the mean number of objects times the number of groups of this rank, as in the official code.
    total, num_queries = targets.total, len(counts) * len(denoising)
    return _HostAssignment(matches, matches, total, total, len(one_layer), num_queries, num_groups=max(groups, 1))


def _to_device(on_host: Sequence[_HostAssignment], device: torch.device) -> list[GroupAssignment]:
    parts = [part for group in on_host for part in (group.classification, group.localization)]
    joined = np.concatenate([part.stacked() for part in parts], axis=1)
    stacked = torch.from_numpy(joined).to(device, non_blocking=True).split([len(part) for part in parts], dim=1)

    counts = [[p.num_objects, p.num_localized, p.num_matched, p.num_queries] for p in on_host]
    means = torch.tensor([float(n) for row in counts for n in row]).to(device, non_blocking=True)
    if comm.get_world_size() > 1:
        dist.all_reduce(means)
        means = means / comm.get_world_size()
    assignments = []
    parts_and_means = zip(on_host, stacked[::2], stacked[1::2], means.view(-1, 4), strict=True)
    for group, classification, localization, group_means in parts_and_means:
        num_objects, num_localized, num_matched, num_queries = group_means.unbind()
        assignments.append(
            GroupAssignment(
                DeviceMatches.from_stacked(
                    classification, num_objects.clamp(min=1) * group.num_groups, group.classification
                ),
                DeviceMatches.from_stacked(
                    localization, num_localized.clamp(min=1) * group.num_groups, group.localization
                ),
                num_matched,
                num_queries - num_matched,
            )
        )
    return assignments
