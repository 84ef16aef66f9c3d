"""Matching of queries to objects."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deim.modeling.losses import BoxL1Loss, Criterion, Supervision
from deim.modeling.matching import HungarianMatcher, Matches, MatchingCost, ScoreIoUCost, union_of_matches
from deim.structures.predictions import Predictions, Targets


def random_case(counts: list[int], layers: int = 2, queries: int = 5, classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (layers, len(counts), queries)
    logits = torch.randn(*shape, classes, generator=generator)
    boxes = torch.rand(*shape, 4, generator=generator) * 0.5 + 0.1
    targets = Targets.collate(
        [torch.randint(classes, (n,), generator=generator) for n in counts],
        [torch.rand(n, 4, generator=generator) * 0.5 + 0.1 for n in counts],
    )
    return logits, boxes, targets


def corners(box: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def published_cost(logit: float, box: list[float], target_box: list[float]) -> float:
    """Return the cost of one query and one object with the weights of Deformable DETR: 2 class, 5 L1, 2 GIoU."""
    p = 1 / (1 + math.exp(-logit))
    focal = -0.25 * (1 - p) ** 2 * math.log(p + 1e-8) + 0.75 * p**2 * math.log(1 - p + 1e-8)
    a, b = corners(box), corners(target_box)
    sides = [(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), max(a[i + 2], b[i + 2]) - min(a[i], b[i])) for i in (0, 1)]
    shared = max(sides[0][0], 0) * max(sides[1][0], 0)
    union = box[2] * box[3] + target_box[2] * target_box[3] - shared
    hull = sides[0][1] * sides[1][1]
    giou = shared / union - (hull - union) / hull
    return 5 * sum(abs(i - j) for i, j in zip(box, target_box, strict=True)) + 2 * focal - 2 * giou


@pytest.mark.parametrize("scale", [1.0, 12.0], ids=["plain", "sure of themselves"])
def test_matching_cost_equals_reference(scale: float) -> None:
    logits, boxes, targets = random_case([3, 1])
    logits, boxes, targets = logits.double(), boxes.double(), replace(targets, boxes=targets.boxes.double())
    cost = MatchingCost()(logits * scale, boxes, targets)
    for layer, image, query in itertools.product(range(2), range(2), range(5)):
        for index in range([3, 1][image]):
            logit = float(logits[layer, image, query, targets.labels[image, index]]) * scale
            expected = published_cost(logit, boxes[layer, image, query].tolist(), targets.boxes[image, index].tolist())
            assert float(cost[layer, image, query, index]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def late_cost(logit: float, box: list[float], target_box: list[float], exponent: float) -> float:
    """Return DEIMv2's cost of the last epochs: the negative product of the score and a power of the IoU."""
    a, b = corners(box), corners(target_box)
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    overlap = shared / (box[2] * box[3] + target_box[2] * target_box[3] - shared)
    return -(overlap**exponent) / (1 + math.exp(-logit))


@pytest.mark.parametrize("exponent", [4.0, 1.0])
def test_score_iou_cost_equals_reference(exponent: float) -> None:
    logits, boxes, targets = random_case([3, 1])
    logits, boxes, targets = logits.double(), boxes.double(), replace(targets, boxes=targets.boxes.double())
    cost = ScoreIoUCost(exponent)(logits, boxes, targets)
    assert torch.equal(ScoreIoUCost()(logits, boxes, targets), ScoreIoUCost(4.0)(logits, boxes, targets))
    for layer, image, query in itertools.product(range(2), range(2), range(5)):
        for index in range([3, 1][image]):
            logit = float(logits[layer, image, query, targets.labels[image, index]])
            box, target_box = boxes[layer, image, query].tolist(), targets.boxes[image, index].tolist()
            expected = late_cost(logit, box, target_box, exponent)
            assert float(cost[layer, image, query, index]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_late_cost_replaces_the_cost_from_its_epoch_on() -> None:
    logits, boxes, targets = random_case([4, 3], queries=8)
    early, late = (
        HungarianMatcher(cost)([Predictions(logits, boxes)], [targets])[0] for cost in (None, ScoreIoUCost())
    )
    assert not np.array_equal(early.stacked(), late.stacked())
    matcher = HungarianMatcher(late_cost=ScoreIoUCost(), late_epoch=3)
    for epoch, expected in {0: early, 2: early, 3: late, 4: late}.items():
        (matches,) = matcher([Predictions(logits, boxes)], [targets], epoch=epoch)
        assert np.array_equal(matches.stacked(), expected.stacked()), epoch


@pytest.mark.parametrize("options", [{"late_epoch": 3}, {"late_cost": ScoreIoUCost()}], ids=str)
def test_incomplete_late_cost_is_rejected(options: dict) -> None:
    with pytest.raises(ValueError, match="late_cost and late_epoch belong together, got late_cost="):
        HungarianMatcher(**options)


def test_criterion_passes_its_epoch_to_the_matcher() -> None:
    logits, boxes, targets = random_case([4, 3], queries=30)
    # Denoising queries are assigned by construction, and every other group is matched by cost.
    supervision = [Supervision("main", "_{}"), Supervision("encoder", "_enc_{}", class_agnostic=True)]
    supervision.append(Supervision("hybrid", "_o2m_{}", repeats=2))
    groups = {s.group: Predictions(logits, boxes) for s in supervision}
    matcher = HungarianMatcher(late_cost=ScoreIoUCost(), late_epoch=3)
    criterion = Criterion(3, supervision, matcher, {"loss_bbox": BoxL1Loss()}, use_union=False)
    assert criterion.epoch == 0
    assert "epoch" not in " ".join(criterion.state_dict())
    fixed = {
        epoch: Criterion(3, supervision, HungarianMatcher(cost), {"loss_bbox": BoxL1Loss()}, use_union=False)(
            groups, targets
        )
        for epoch, cost in {2: MatchingCost(), 3: ScoreIoUCost()}.items()
    }
    for epoch, expected in fixed.items():
        criterion.epoch = epoch
        assert criterion(groups, targets) == expected
    changed = {name.rstrip("_01") for name in fixed[2] if fixed[2][name] != fixed[3][name]}
    assert changed == {"loss_bbox", "loss_bbox_enc", "loss_bbox_o2m"}


@pytest.mark.parametrize("counts", [[3], [2, 0, 4], [0], [0, 1]], ids=str)
def test_matching_has_minimum_total_cost(counts: list[int]) -> None:
    logits, boxes, targets = random_case(counts)
    cost = MatchingCost()(logits, boxes, targets)
    (matches,) = HungarianMatcher()([Predictions(logits, boxes)], [targets])
    assert len(matches) == 2 * sum(counts)
    for layer, image in itertools.product(range(2), range(len(counts))):
        chosen = (matches.layer == layer) & (matches.image == image)
        pairs = list(zip(matches.query[chosen], matches.target[chosen], strict=True))
        assert sorted(t for _, t in pairs) == list(range(counts[image]))
        actual = sum(float(cost[layer, image, q, t]) for q, t in pairs)
        best = min(
            sum(float(cost[layer, image, q, t]) for t, q in enumerate(order))
            for order in itertools.permutations(range(5), counts[image])
        )
        assert actual == pytest.approx(best, abs=1e-5)


def test_more_objects_than_queries() -> None:
    logits, boxes, targets = random_case([9], layers=1, queries=4)
    (matches,) = HungarianMatcher()([Predictions(logits, boxes)], [targets])
    assert sorted(matches.query) == [0, 1, 2, 3]
    assert len(set(matches.target)) == 4


def test_groups_are_matched_independently() -> None:
    counts = [3, 0, 2]
    _, _, targets = random_case(counts)
    groups = [
        Predictions(*random_case(counts, layers, queries, seed=seed)[:2])
        for seed, (layers, queries) in enumerate([(2, 5), (1, 12), (1, 5), (3, 12)])
    ]
    together = HungarianMatcher()(groups, [targets] * len(groups))
    for group, actual in zip(groups, together, strict=True):
        (separate,) = HungarianMatcher()([group], [targets])
        assert np.array_equal(actual.stacked(), separate.stacked())


def test_repeats_match_several_queries_to_each_object() -> None:
    counts, repeats = [2, 1], 2
    logits, boxes, targets = random_case(counts, layers=1, queries=5)
    (matches,) = HungarianMatcher()([Predictions(logits, boxes)], [targets], [repeats])
    cost = MatchingCost()(logits, boxes, targets)[0]
    for image, count in enumerate(counts):
        chosen = matches.image == image
        assert sorted(matches.target[chosen]) == sorted(list(range(count)) * repeats)
        assert len(set(matches.query[chosen])) == count * repeats
        actual = sum(
            float(cost[image, q, t]) for q, t in zip(matches.query[chosen], matches.target[chosen], strict=True)
        )
        target_box = list(range(count)) * repeats
        best = min(
            sum(float(cost[image, q, t]) for q, t in zip(order, target_box, strict=True))
            for order in itertools.permutations(range(5), count * repeats)
        )
        assert actual == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("cost", [MatchingCost(), ScoreIoUCost()], ids=["MatchingCost", "ScoreIoUCost"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_predictions_are_matched(bad: float, cost: MatchingCost | ScoreIoUCost) -> None:
    logits, boxes, targets = random_case([2, 3])

    def matched_queries() -> list[int]:
        (matches,) = HungarianMatcher(cost)([Predictions(logits, boxes)], [targets])
        return matches.query[(matches.layer == 1) & (matches.image == 1)].tolist()

    query = min(set(range(5)) - set(matched_queries()))
    boxes[1, 1, query] = bad
    assert query in matched_queries()


def test_union_keeps_the_most_frequent_target_of_a_query() -> None:
    pairs = [  # layer, image, query, target
        (0, 0, 7, 1),
        (1, 0, 7, 1),
        (2, 0, 7, 0),
        (0, 0, 3, 0),
        (1, 0, 4, 0),
        (0, 1, 7, 2),
    ]
    union = union_of_matches(Matches(*np.array(pairs).T))
    actual = set(zip(union.image, union.query, union.target, strict=True))
    assert actual == {(0, 3, 0), (0, 4, 0), (0, 7, 1), (1, 7, 2)}
    assert not union.layer.any()


def test_union_of_no_matches_is_empty() -> None:
    empty = np.empty(0, np.int64)
    assert len(union_of_matches(Matches(empty, empty, empty, empty))) == 0
