"""Keypoint head, matching cost and losses of keypoints, compared with their formulas."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deim.modeling.decoder import KeypointHead
from deim.modeling.losses import Criterion, KeypointL1Loss, KeypointOKSLoss, Supervision
from deim.modeling.matching import KeypointCost
from deim.structures.memory import Memory
from deim.structures.predictions import Predictions, Targets
from tests.models import randomize

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


def test_head_equals_formula() -> None:
    """The second step sees the sum of the query, the embedding of the keypoint and the projected features."""
    torch.manual_seed(0)
    head = randomize(KeypointHead(8, num_layers=2, num_keypoints=POINTS, activation="silu"), 0.3).double()
    tokens, queries, boxes = draw(2, 24, 8) - 0.5, draw(2, 5, 8, seed=1), draw(2, 5, 4, seed=2) * 0.5 + 0.2
    features = tokens.mT.unflatten(2, (4, 6))
    state = head.initial_state(Memory(tokens, [(4, 6)]))
    for layer in range(2):
        _, actual = head(layer, queries, boxes, state)
        assert actual.shape == (1, 2, 5, POINTS, 2)
        for image, query, point in itertools.product(range(2), range(5), range(POINTS)):
            center, size = boxes[image, query].split(2)
            offset = perceptron(head.position_heads[layer], queries[image, query]).view(POINTS, 2)[point]
            grid = 2 * (center + offset * size) - 1
            sampled = F.grid_sample(features[image, None], grid[None, None, None], align_corners=False).flatten()
            content = queries[image, query] + head.point_embeddings[layer][point] + head.feature_proj[layer](sampled)
            offset = offset + perceptron(head.correction_heads[layer], content)
            torch.testing.assert_close(actual[0, image, query, point], center + offset * size)


def perceptron(network: torch.nn.Module, x: Tensor) -> Tensor:
    """Apply the three layers of a network with SiLU in between."""
    first, second, third = network.layers
    return third(F.silu(second(F.silu(first(x)))))


def test_head_trains_neither_the_boxes_nor_the_map_through_the_positions() -> None:
    torch.manual_seed(0)
    head = randomize(KeypointHead(8, num_layers=1, num_keypoints=POINTS), 0.3)
    boxes, tokens = torch.rand(1, 2, 4).requires_grad_(), torch.randn(1, 16, 8)
    keypoints = head(0, torch.randn(1, 2, 8), boxes, head.initial_state(Memory(tokens, [(4, 4)])))[1]
    keypoints.sum().backward()
    assert boxes.grad is None
    assert all(parameter.grad.any() for parameter in head.parameters())


def test_initial_weights_of_the_head() -> None:
    torch.manual_seed(0)
    head = KeypointHead(256, num_layers=2, num_keypoints=17)
    for network in (*head.position_heads, *head.correction_heads):
        assert isinstance(network.activation, torch.nn.ReLU)
        assert not network.layers[-1].weight.any()
        assert not network.layers[-1].bias.any()
        assert all(layer.weight.any() for layer in network.layers[:-1])
    assert float(head.point_embeddings[1].std()) == pytest.approx(0.02, rel=0.1)


def test_default_weights_are_those_of_detrpose() -> None:
    cost = KeypointCost()
    assert (cost.l1_weight, cost.oks_weight, cost.sigmas) == (10, 4, None)
    assert [(loss.weight, loss.localization) for loss in (KeypointL1Loss(), KeypointOKSLoss())] == [(1, False)] * 2


def test_costs_and_losses_have_the_precision_of_the_predictions() -> None:
    predictions, targets = random_case()
    targets.keypoints, targets.boxes = targets.keypoints.float(), targets.boxes.float()
    assert KeypointCost(sigmas=SIGMAS)(predictions, targets).dtype == torch.float64
    criterion = Criterion(4, [Supervision("main", "_{}")], losses={"loss_keypoints": KeypointL1Loss()})
    assert criterion({"main": predictions}, targets)["loss_keypoints_0"].dtype == torch.float64


def test_keeping_layers_keeps_the_last_networks() -> None:
    head = KeypointHead(8, num_layers=3, num_keypoints=POINTS)
    queries, boxes = torch.randn(1, 5, 8), torch.rand(1, 5, 4)
    state = head.initial_state(Memory(torch.randn(1, 16, 8), [(4, 4)]))
    expected = head(1, queries, boxes, state)[1]
    head.keep_layers(2)
    assert torch.equal(head(1, queries, boxes, state)[1], expected)
    assert len(head.position_heads) == 2
