"""Keypoint head, matching cost and losses of keypoints, compared with their formulas."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from deim.modeling.decoder import KeypointHead
from deim.modeling.losses import Criterion, KeypointL1Loss, KeypointOKSLoss, Supervision
from deim.modeling.matching import KeypointCost
from deim.structures.memory import Memory
from deim.structures.predictions import Predictions, Targets

LAYERS, IMAGES, QUERIES, POINTS = 2, 2, 5, 3
SIGMAS = [0.05, 0.1, 0.2]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_case() -> tuple[Predictions, Targets]:
    """Return predictions and targets; the second object of the first image has no labeled keypoints."""
    shape = (LAYERS, IMAGES, QUERIES)
    predictions = Predictions(draw(*shape, 4), draw(*shape, 4, seed=1) * 0.4 + 0.2, keypoints=draw(*shape, POINTS, 2))
    counts = [3, 1]
    visibility = [torch.tensor([[2.0, 0, 1], [0, 0, 0], [1, 1, 1]]), torch.tensor([[0.0, 2, 0]])]
    keypoints = [
        torch.cat([draw(n, POINTS, 2, seed=n), v.double()[..., None]], dim=-1)
        for n, v in zip(counts, visibility, strict=True)
    ]
    boxes = [draw(n, 4, seed=n + 9) * 0.4 + 0.2 for n in counts]
    return predictions, Targets.collate([torch.zeros(n) for n in counts], boxes, keypoints=keypoints)


def reference(predicted: Tensor, target: Tensor, box: Tensor) -> tuple[float, float] | None:
    """Return the L1 distance and the OKS of one object's keypoints; None if none is labeled."""
    area, distance, similarity, labeled = float(box[2] * box[3]), 0.0, 0.0, 0
    for (x, y), (tx, ty, visibility), sigma in zip(predicted.tolist(), target.tolist(), SIGMAS, strict=True):
        if visibility > 0:
            labeled += 1
            distance += abs(x - tx) + abs(y - ty)
            similarity += math.exp(-((x - tx) ** 2 + (y - ty) ** 2) / (2 * area * (2 * sigma) ** 2))
    return (distance, similarity / labeled) if labeled else None


def test_keypoint_cost_equals_formula() -> None:
    predictions, targets = random_case()
    cost = KeypointCost(2.0, 3.0, SIGMAS)(predictions, targets)
    for layer, image, query in itertools.product(range(LAYERS), range(IMAGES), range(QUERIES)):
        for index in range(targets.counts[image]):
            values = reference(
                predictions.keypoints[layer, image, query], targets.keypoints[image, index], targets.boxes[image, index]
            )
            expected = 0 if values is None else 2 * values[0] + 3 * (1 - values[1])
            assert float(cost[layer, image, query, index]) == pytest.approx(expected, rel=1e-9)


def test_keypoint_cost_does_not_apply_without_keypoints() -> None:
    predictions, targets = random_case()
    assert KeypointCost()(Predictions(predictions.logits, predictions.boxes), targets) is None
    assert KeypointCost()(predictions, Targets(targets.labels, targets.boxes, targets.counts)) is None


def test_keypoint_losses_equal_formula() -> None:
    predictions, targets = random_case()
    criterion = Criterion(
        4,
        [Supervision("main", "_{}"), Supervision("encoder", "_enc")],
        losses={"loss_keypoints": KeypointL1Loss(2.0), "loss_oks": KeypointOKSLoss(3.0, SIGMAS)},
    )
    groups = {"main": predictions, "encoder": Predictions(predictions.logits[:1], predictions.boxes[:1])}
    actual = criterion(groups, targets)
    assert set(actual) == {"loss_keypoints_0", "loss_keypoints_1", "loss_oks_0", "loss_oks_1"}
    (matches,) = criterion.matcher([predictions], [targets])
    for layer in range(LAYERS):
        distance = dissimilarity = 0.0
        for row in zip(matches.layer, matches.image, matches.query, matches.target, strict=True):
            image, index = row[1], row[3]
            values = reference(
                predictions.keypoints[row[:3]], targets.keypoints[image, index], targets.boxes[image, index]
            )
            if row[0] == layer and values is not None:
                distance += values[0]
                dissimilarity += 1 - values[1]
        assert float(actual[f"loss_keypoints_{layer}"]) == pytest.approx(2 * distance / 4, rel=1e-9)
        assert float(actual[f"loss_oks_{layer}"]) == pytest.approx(3 * dissimilarity / 4, rel=1e-9)


def test_untrained_head_predicts_the_center_of_the_box() -> None:
    head = KeypointHead(8, num_layers=2, num_keypoints=POINTS)
    memory, queries, boxes = Memory(torch.randn(1, 16, 8), [(4, 4)]), torch.randn(1, 5, 8), torch.rand(1, 5, 4)
    state = head.initial_state(memory)
    _, keypoints = head(0, queries, boxes, state)
    assert torch.equal(keypoints[0], boxes[:, :, None, :2].expand(-1, -1, POINTS, -1))
    assert head(1, queries, None, state) == (state, None)


def test_correction_sees_the_features_at_the_keypoints() -> None:
    """A change of the map at one keypoint changes only this keypoint; with padding, positions are scaled."""
    torch.manual_seed(0)
    head = KeypointHead(8, num_layers=1, num_keypoints=2).double()
    for network in (head.position_heads[0], head.correction_heads[0]):
        torch.nn.init.normal_(network.layers[-1].weight, std=0.3)
    head.position_heads[0].layers[-1].bias.data = torch.tensor([-0.5, -0.5, 0.5, 0.5]).double()
    head.position_heads[0].layers[-1].weight.data.zero_()
    queries, boxes = torch.randn(1, 1, 8).double(), torch.tensor([[[0.5, 0.5, 0.5, 0.5]]]).double()
    tokens = torch.randn(1, 64, 8).double()
    # The left half of the map belongs to the image: its keypoints at x = 0.25 and 0.75 are at 0.125 and 0.375.
    padding = (torch.arange(64) % 8 >= 4)[None]

    def predict(tokens: Tensor) -> Tensor:
        memory = Memory(tokens, [(8, 8)], padding)
        return head(0, queries, boxes, head.initial_state(memory))[1][0, 0, 0]

    changed = tokens.clone()
    changed[0, 2 * 8 + 1] += 1  # row 2, column 1: near the first keypoint (0.125, 0.25)
    difference = (predict(changed) - predict(tokens)).abs().sum(dim=-1)
    assert difference[0] > 1e-3
    assert difference[1] == 0


def test_keeping_layers_keeps_the_last_networks() -> None:
    head = KeypointHead(8, num_layers=3, num_keypoints=POINTS)
    queries, boxes = torch.randn(1, 5, 8), torch.rand(1, 5, 4)
    state = head.initial_state(Memory(torch.randn(1, 16, 8), [(4, 4)]))
    expected = head(1, queries, boxes, state)[1]
    head.keep_layers(2)
    assert torch.equal(head(1, queries, boxes, state)[1], expected)
    assert len(head.position_heads) == 2
