"""Mask head, matching cost and losses of masks, compared with their formulas."""

import itertools
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deim.modeling.decoder import MaskHead
from deim.modeling.decoder.mask_head import QueryBlock
from deim.modeling.losses import Criterion, MaskCrossEntropyLoss, MaskDiceLoss, MaskPointSampler, Supervision
from deim.modeling.losses.assignment import DeviceMatches
from deim.modeling.losses.matched_masks import matched_logits
from deim.modeling.matching import HungarianMatcher, MaskCost, Matches
from deim.structures.masks import MaskPredictions
from deim.structures.memory import Memory
from deim.structures.predictions import Predictions, Targets

DIM = 4
# A mask head only checks whether boxes are given.
BOXES = torch.zeros(1, 1, 4)
LAYERS, IMAGES, QUERIES, OBJECTS = 2, 2, 6, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_predictions() -> Predictions:
    shape = (LAYERS, IMAGES, QUERIES)
    masks = MaskPredictions(draw(*shape, DIM), draw(*shape), [draw(IMAGES, DIM, 8, 8, seed=i) for i in range(LAYERS)])
    return Predictions(draw(*shape, 5), draw(*shape, 4).sigmoid() * 0.4 + 0.2, masks=masks)


def random_targets() -> Targets:
    counts = [OBJECTS, 1]
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.rand(n, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2 for n in counts]
    masks = [torch.rand(n, 16, 16, generator=generator) < 0.4 for n in counts]
    masks[0][1] = False
    labels = [torch.randint(5, (n,), generator=generator) for n in counts]
    return Targets.collate(labels, boxes, [mask.to(torch.uint8) for mask in masks])


def cross_entropy(logit: float, label: float) -> float:
    return float(F.softplus(torch.tensor(-logit if label else logit, dtype=torch.float64)))


def dice(logits: Tensor, labels: Tensor) -> float:
    probability = 1 / (1 + (-logits).exp())
    return float(1 - (2 * (probability * labels).sum() + 1) / (probability.sum() + labels.sum() + 1))


def test_mask_head_equals_projected_pixels() -> None:
    """The projection of the pixels can be applied to the queries instead."""
    torch.manual_seed(0)
    head = MaskHead(DIM, num_layers=2).double()
    torch.nn.init.normal_(head.bias)
    tokens, queries = draw(2, 4 * 6 + 2 * 3, DIM), draw(2, 5, DIM, seed=1)
    state = head.initial_state(Memory(tokens, [(4, 6), (2, 3)]))
    finest = tokens[:, :24].transpose(1, 2).reshape(2, DIM, 4, 6)
    pixels = F.interpolate(finest, size=(8, 12), mode="bilinear")
    torch.testing.assert_close(state, pixels)
    for index in range(2):
        state, masks = head(index, queries, BOXES, state)
        block = head.pixel_blocks[index]
        update = block.depthwise(pixels).permute(0, 2, 3, 1)
        update = F.gelu(block.pointwise(F.layer_norm(update, (DIM,), block.norm.weight, block.norm.bias, eps=1e-6)))
        pixels = pixels + update.permute(0, 3, 1, 2)
        embeddings = head.query_proj(head.query_block(queries))
        expected = torch.einsum("bchw,bnc->bnhw", head.pixel_proj(pixels), embeddings) + head.bias
        actual = masks.select(0, torch.arange(5).expand(2, -1))
        torch.testing.assert_close(actual, expected)


def test_query_block_equals_formula() -> None:
    torch.manual_seed(0)
    block, queries = QueryBlock(DIM).double(), draw(2, 5, DIM)
    torch.nn.init.normal_(block.norm.weight)
    hidden = F.gelu(block.linear1(F.layer_norm(queries, (DIM,), block.norm.weight, block.norm.bias)))
    assert hidden.shape == (2, 5, 4 * DIM)
    torch.testing.assert_close(block(queries), queries + block.linear2(hidden))


def test_initial_mask_head_has_no_bias() -> None:
    head = MaskHead(DIM, num_layers=3)
    assert head.bias.tolist() == [0]
    assert (len(head.pixel_blocks), head.upsampling, head.inference_blocks) == (3, 2, None)
    head.keep_layers(2)
    assert len(head.pixel_blocks) == 2


def test_inference_blocks_limit_the_pixel_blocks_of_inference() -> None:
    head = MaskHead(DIM, num_layers=3, inference_blocks=1).eval()
    memory, queries = Memory(torch.randn(1, 16, DIM), [(4, 4)]), torch.randn(1, 2, DIM)
    initial = state = head.initial_state(memory)
    for index in range(3):
        state, masks = head(index, queries, BOXES if index == 2 else None, state)
    assert torch.equal(masks.pixels[0], head.pixel_blocks[0](initial))


def test_mask_cost_equals_formula() -> None:
    predictions, targets = random_predictions(), random_targets()
    points = torch.rand(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cost = MaskCost(2.0, 3.0, pixels_per_point=13)
    with mock.patch.object(MaskCost, "draw", return_value=points) as drawn:
        actual = cost(predictions, targets)
    assert drawn.call_args[0][0] == 64 // 13
    logits = predictions.masks.at_points(points)
    for layer, image, query in itertools.product(range(LAYERS), range(IMAGES), range(QUERIES)):
        for index in range(targets.counts[image]):
            values = logits[layer, image, query]
            labels = torch.stack([targets.masks[image, index, int(16 * y), int(16 * x)] for x, y in points])
            entropy = sum(cross_entropy(float(v), float(t)) for v, t in zip(values, labels, strict=True)) / 5
            expected = 0 if (image, index) == (0, 1) else 2 * entropy + 3 * dice(values, labels)
            assert float(actual[layer, image, query, index]) == pytest.approx(expected, rel=1e-9)


def test_mask_cost_does_not_apply_without_masks() -> None:
    predictions, targets = random_predictions(), random_targets()
    assert MaskCost()(Predictions(predictions.logits, predictions.boxes), targets) is None
    assert MaskCost()(predictions, Targets(targets.labels, targets.boxes, targets.counts)) is None


def test_matcher_adds_further_costs() -> None:
    """An overwhelming further cost determines the matches."""
    predictions, targets = random_predictions(), random_targets()
    wanted = torch.full((LAYERS, IMAGES, QUERIES, OBJECTS), 1e6, dtype=torch.float64)
    for index, query in enumerate((5, 0, 3)):
        wanted[:, :, query, index] = 0
    (matches,) = HungarianMatcher(further_costs=[lambda *_: wanted, lambda *_: None])([predictions], [targets])
    assert list(zip(matches.query, matches.target, strict=True)) == [(0, 1), (3, 2), (5, 0), (5, 0)] * LAYERS


def unsorted_matches() -> DeviceMatches:
    layer, image = torch.tensor([1, 0, 0, 1, 0, 1, 1]), torch.tensor([0, 1, 0, 0, 0, 1, 0])
    query, target = torch.tensor([5, 1, 2, 0, 2, 4, 3]), torch.tensor([0, 0, 2, 1, 1, 0, 2])
    on_host = Matches(*(part.numpy() for part in (layer, image, query, target)))
    return DeviceMatches(layer, image, query, target, torch.tensor(1.0), on_host)


def test_matched_logits_equal_single_masks() -> None:
    masks, matches = random_predictions().masks, unsorted_matches()
    expected = [
        torch.einsum("c,chw->hw", masks.queries[layer, image, query], masks.pixels[layer][image])
        + masks.offsets[layer, image, query]
        for layer, image, query in zip(matches.layer, matches.image, matches.query, strict=True)
    ]
    torch.testing.assert_close(matched_logits(masks, matches), torch.stack(expected))


def test_points_are_uncertain() -> None:
    """Three of four points are the most uncertain candidates, which lie where the logit is near 0."""
    ramp = torch.linspace(-10, 10, 64, dtype=torch.float64).expand(2, 64, 64)
    torch.manual_seed(0)
    points = MaskPointSampler()(ramp)
    assert points.shape == (2, 256, 2)
    uncertain = (points[..., 0] - 0.5).abs()
    assert uncertain[:, :192].max() < 0.25
    assert uncertain[:, 192:].max() > 0.4
    assert MaskPointSampler(pixels_per_point=1000)(ramp).shape == (2, 64, 2), "at least one point per row"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_uniform_in_the_precision_of_the_predictions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    like = torch.zeros(1, dtype=dtype)
    drawn = MaskPointSampler().draw(3, 2000, like), MaskCost().draw(6000, like)
    assert [points.shape for points in drawn] == [(3, 2000, 2), (6000, 2)]
    for points in drawn:
        assert points.dtype == dtype
        assert 0 <= float(points.min()) < 0.01
        assert 0.99 < float(points.max()) < 1
        assert float(points.mean()) == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(drawn[0][0], drawn[0][1]), "the points of each mask are its own"


def test_default_weights_and_points() -> None:
    cost, sampler = MaskCost(), MaskPointSampler()
    assert (cost.cross_entropy_weight, cost.dice_weight, cost.pixels_per_point) == (5, 5, 16)
    assert (sampler.pixels_per_point, sampler.oversampling, sampler.uncertain_fraction) == (16, 3, 0.75)
    assert [loss.weight for loss in (MaskCrossEntropyLoss(), MaskDiceLoss())] == [1, 1]


def test_mask_losses_equal_formula() -> None:
    predictions, targets = random_predictions(), random_targets()
    criterion = Criterion(
        5,
        [Supervision("main", "_{}"), Supervision("encoder", "_enc")],
        losses={"loss_ce": MaskCrossEntropyLoss(2.0), "loss_dice": MaskDiceLoss(3.0)},
    )
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    groups = {"main": predictions, "encoder": Predictions(predictions.logits[:1], predictions.boxes[:1])}
    with mock.patch.object(MaskPointSampler, "__call__", lambda _, logits: points.expand(len(logits), -1, -1)):
        actual = criterion(groups, targets)
    assert set(actual) == {"loss_ce_0", "loss_ce_1", "loss_dice_0", "loss_dice_1"}, "the encoder predicts no masks"
    (matches,) = criterion.matcher([predictions], [targets])
    logits = predictions.masks.at_points(points)
    for layer in range(LAYERS):
        entropy = overlap = 0.0
        for index in range(len(matches)):
            row = [int(part[index]) for part in (matches.layer, matches.image, matches.query, matches.target)]
            if row[0] != layer or (row[1], row[3]) == (0, 1):  # the second object has an empty mask
                continue
            values = logits[layer, row[1], row[2]]
            labels = torch.stack([targets.masks[row[1], row[3], int(16 * y), int(16 * x)] for x, y in points])
            entropy += sum(cross_entropy(float(v), float(t)) for v, t in zip(values, labels, strict=True)) / 9
            overlap += dice(values, labels)
        assert float(actual[f"loss_ce_{layer}"]) == pytest.approx(2 * entropy / 4, rel=1e-9)
        assert float(actual[f"loss_dice_{layer}"]) == pytest.approx(3 * overlap / 4, rel=1e-9)
