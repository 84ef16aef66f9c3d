"""Parts of the decoder for poses, compared with their formulas."""

import itertools
import math
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers import MLP, AttentionBlock
from deim.modeling.decoder import (
    BoxPosition,
    Decoder,
    KeypointPosition,
    KeypointRefinement,
    MapProjection,
    PoseDecoderLayer,
)
from deim.modeling.decoder.pose import KeypointQualityEstimator
from deim.modeling.decoder.position import QueryPosition
from deim.modeling.losses import (
    Criterion,
    KeypointL1Loss,
    KeypointOKSLoss,
    KeypointQuality,
    Supervision,
    VarifocalLoss,
)
from deim.modeling.matching import ClassCost, HungarianMatcher, KeypointCost, Matches, MatchingCost, union_of_matches
from deim.modeling.queries import ContrastiveDenoising, PoseDenoising, PoseSelection
from deim.modeling.queries.anchors import generate_points
from deim.structures.distribution import weighting_function
from deim.structures.keypoints import object_keypoint_similarity
from deim.structures.memory import Memory
from deim.structures.predictions import Predictions, Targets
from tests.models import dense_mask, randomize

pytestmark = pytest.mark.usefixtures("double_precision")

DIM, HEADS, POINTS, CLASSES = 8, 2, 3, 2
SIGMAS = [0.05, 0.1, 0.2]
SHAPES = [(6, 4), (3, 2)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def random_memory(images: int = 2, seed: int = 0) -> Memory:
    return Memory(draw(images, sum(h * w for h, w in SHAPES), DIM, seed=seed) - 0.5, SHAPES)


def maps_of(memory: Memory) -> list[Tensor]:
    """Return the (B, C, h, w) map of each level."""
    parts = memory.tokens.split(memory.level_sizes, dim=1)
    return [part.mT.unflatten(2, shape) for part, shape in zip(parts, memory.spatial_shapes, strict=True)]


def sampled(features: Tensor, x: float, y: float) -> Tensor:
    """Interpolate a (C, h, w) map bilinearly at x and y, relative to its size; values outside of the map are 0."""
    height, width = features.shape[1:]
    column, row, total = x * width - 0.5, y * height - 0.5, torch.zeros(len(features))
    for i, j in itertools.product((math.floor(row), math.floor(row) + 1), (math.floor(column), math.floor(column) + 1)):
        if 0 <= i < height and 0 <= j < width:
            total = total + features[:, i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def random_targets(counts: tuple[int, ...] = (2, 1), classes: int = CLASSES) -> Targets:
    """Return targets with areas; the first keypoint of an object is occluded, the last one of the first not labeled."""
    keypoints = [draw(n, POINTS, 3, seed=n) * 0.5 + 0.2 for n in counts]
    for image_keypoints in keypoints:
        image_keypoints[..., 2] = torch.tensor([1, *[2] * (POINTS - 1)])
    keypoints[0][0, -1] = torch.tensor([0.3, 0.3, 0.0])
    boxes = [draw(n, 4, seed=n + 9) * 0.3 + 0.2 for n in counts]
    labels = [torch.arange(n) % classes for n in counts]
    areas = [draw(n, seed=n + 19) * 0.1 + 0.02 for n in counts]
    return Targets.collate(labels, boxes, keypoints=keypoints, areas=areas)


# ---- layer and position embedding


def reference_layer(layer: PoseDecoderLayer, x: Tensor, position: Tensor, points: Tensor, memory: Memory) -> Tensor:
    """Compute :class:`PoseDecoderLayer` for one image without denoising, with torch's attention, one token at a time."""
    attentions = []
    for part in (layer.within_attn, layer.self_attn):
        attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        attention.load_state_dict(part.state_dict())
        attentions.append(attention)
    x = x + position
    x = layer.within_norm(x + attentions[0](x, x, x)[0])  # the queries are the batch
    across = x.transpose(0, 1)  # the tokens are the batch
    x = layer.norm1(across + attentions[1](across, across, across)[0]).transpose(0, 1) + position
    output = torch.empty_like(x)
    for query, token in itertools.product(range(len(x)), range(x.shape[1])):
        attended = attend_around(layer.cross_attn, x[query, token], points[query, token], memory)
        gates = layer.gateway.gate(torch.cat([x[query, token], attended])).sigmoid()
        mixed = layer.gateway.norm(gates[:DIM] * x[query, token] + gates[DIM:] * attended)
        output[query, token] = layer.norm3(mixed + layer.linear2(layer.linear1(mixed).relu()))
    return output


def attend_around(attention: nn.Module, token: Tensor, point: Tensor, memory: Memory) -> Tensor:
    levels = maps_of(memory)
    count = len(levels) * 2
    offsets = attention.sampling_offsets(token).view(HEADS, count, 2)
    weights = attention.attention_weights(token).view(HEADS, count).softmax(dim=-1)
    parts = []
    for head in range(HEADS):
        total = torch.zeros(DIM // HEADS)
        for sample in range(count):
            level = levels[sample // 2][0, head * (DIM // HEADS) : (head + 1) * (DIM // HEADS)]
            x, y = (float(point[i] + offsets[head, sample, i] / level.shape[2 - i]) for i in (0, 1))
            total = total + weights[head, sample] * sampled(level, x, y)
        parts.append(total)
    return torch.cat(parts)


@torch.no_grad()
def test_layer_equals_a_reference() -> None:
    torch.manual_seed(0)
    layer = randomize(PoseDecoderLayer(DIM, HEADS, 12, [2, 2]), 0.2).eval()
    memory = random_memory(1)
    x, position = draw(1, 4, 1 + POINTS, DIM, seed=1), draw(1, 4, 1 + POINTS, DIM, seed=2)
    points = draw(1, 4, 1 + POINTS, 2, seed=3) * 1.2 - 0.1
    actual = layer(x, QueryPosition(position), points, memory)
    expected = reference_layer(layer, x[0], position[0], points[0], memory)
    torch.testing.assert_close(actual[0], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_attention_pattern_applies_to_queries() -> None:
    """Within a query, all tokens attend to each other; across queries, the pattern holds for each token."""
    torch.manual_seed(0)
    layer = randomize(PoseDecoderLayer(DIM, HEADS, 12, [2, 2]), 0.2).eval()
    memory, points = random_memory(1), draw(1, 5, 1 + POINTS, 2, seed=3)
    blocks = [AttentionBlock(2, slice(0, 5)), AttentionBlock(3, slice(2, 5))]
    masked = dense_mask(blocks, 5)
    x = draw(1, 5, 1 + POINTS, DIM, seed=1)
    position = QueryPosition(torch.zeros_like(x))
    output = layer(x, position, points, memory, blocks)
    for source in range(5):
        changed = x.clone()
        changed[:, source] += 0.1
        differs = (layer(changed, position, points, memory, blocks) != output).any(dim=-1)[0]
        for query in range(5):
            assert bool(differs[query].any()) == (not masked[query, source])


def test_initial_layer_has_the_official_distributions() -> None:
    """All matrices but those of the cross-attention are Xavier-uniform, the gate too; offsets point in all directions."""
    torch.manual_seed(0)
    layer = PoseDecoderLayer(64, 8, 128, [4, 4, 4])
    for matrix in (layer.gateway.gate.weight, layer.within_attn.out_proj.weight, layer.linear1.weight):
        bound = math.sqrt(6 / sum(matrix.shape))
        assert 0.98 * bound < float(matrix.detach().abs().max()) <= bound
    assert not layer.cross_attn.sampling_offsets.weight.any()
    assert not layer.gateway.gate.bias.any()
    second = layer.next_layer()
    assert torch.equal(second.linear1.weight, layer.linear1.weight)


@torch.no_grad()
def test_position_equals_formula() -> None:
    torch.manual_seed(0)
    position = KeypointPosition(DIM)
    references = draw(1, 2, 1 + POINTS, 2)
    actual = position(0, draw(1, 2, 1 + POINTS, DIM), references, random_memory(1)).embedding
    assert actual.shape == (1, 2, 1 + POINTS, DIM)
    assert not actual[:, :, 0].any()
    for query, point in itertools.product(range(2), range(POINTS)):
        x, y = references[0, query, 1 + point].tolist()
        angles = [2 * math.pi * value / 10000 ** (2 * k / (DIM / 2)) for value in (y, x) for k in range(DIM // 4)]
        sines = torch.tensor([function(angle) for angle in angles for function in (math.sin, math.cos)])
        torch.testing.assert_close(actual[0, query, 1 + point], position.mlp(sines), rtol=1e-6, atol=1e-7)


# ---- refinement


@torch.no_grad()
def test_quality_estimator_equals_formula() -> None:
    torch.manual_seed(0)
    estimator = randomize(KeypointQualityEstimator(POINTS, top_k=2, hidden_dim=6), 0.3)
    features, points, logits = (
        draw(1, DIM, 5, 4),
        draw(1, 2, POINTS, 2, seed=1) * 1.4 - 0.2,
        draw(1, 2, CLASSES, seed=2),
    )
    actual = estimator(logits, points, features)
    for query in range(2):
        statistics: list[float] = []
        for x, y in points[0, query].tolist():
            highest = sorted(sampled(features[0], x, y).tolist(), reverse=True)[:2]
            statistics += [*highest, sum(highest) / 2]
        torch.testing.assert_close(actual[0, query], logits[0, query] + estimator.reg_conf(torch.tensor(statistics)))


@torch.no_grad()
def test_refinement_equals_formula() -> None:
    torch.manual_seed(0)
    refinement = randomize(KeypointRefinement(DIM, CLASSES, 2, POINTS), 0.2).train()
    memory, references = random_memory(1), draw(1, 2, 1 + POINTS, 2)
    references[0, 0, 1] = torch.tensor([0.0, 1.0])
    bins = weighting_function(32, refinement.up, refinement.reg_scale)
    queries = [draw(1, 2, 1 + POINTS, DIM, seed=seed) for seed in (4, 5)]
    position = draw(1, 2, 1 + POINTS, DIM, seed=6)
    state = refinement.initial_state(references, memory)
    assert refinement.before_layer(state, QueryPosition(position)) is state
    state, first = refinement(0, queries[0], state, predict=True)
    ratios = references[:, :, 1:].clamp(min=1e-3) / (1 - references[:, :, 1:]).clamp(min=1e-3)
    initial = (refinement.initial_keypoint_head(queries[0][:, :, 1:]) + ratios.log()).sigmoid()
    torch.testing.assert_close(first["initial"].keypoints[0], initial)
    torch.testing.assert_close(first["initial"].logits[0], refinement.score_heads[0](queries[0][:, :, 0]))
    corners = refinement.corner_heads[0](queries[0][:, :, 1:]).view(1, 2, POINTS, 2, 33)
    keypoints = initial + (corners.softmax(-1) * bins).sum(-1) / 4
    torch.testing.assert_close(first["main"].keypoints[0], keypoints)
    scores = refinement.score_heads[0](queries[0][:, :, 0])
    scores = refinement.quality_heads[0](scores, keypoints, maps_of(memory)[0])
    torch.testing.assert_close(first["main"].logits[0], scores)
    torch.testing.assert_close(state.references, torch.cat([keypoints.mean(2, keepdim=True), keypoints], dim=2))
    # The tokens of the previous layer have the position embeddings of this one.
    state = refinement.before_layer(state, QueryPosition(position))
    _, second = refinement(1, queries[1], state, predict=True)
    tokens = queries[1][:, :, 1:] + queries[0][:, :, 1:] + position[:, :, 1:]
    corners = corners + refinement.corner_heads[1](tokens).view(1, 2, POINTS, 2, 33)
    torch.testing.assert_close(second["main"].keypoints[0], initial + (corners.softmax(-1) * bins).sum(-1) / 4)
    low, high = second["main"].keypoints.amin(dim=-2), second["main"].keypoints.amax(dim=-2)
    torch.testing.assert_close(second["main"].boxes, torch.cat([(low + high) / 2, high - low], dim=-1))
    assert set(second) == {"main"}


@torch.no_grad()
def test_state_of_the_refinement_is_zero_on_padding() -> None:
    memory = Memory.from_maps([draw(2, DIM, 4, 6) + 1], torch.arange(12).expand(2, 8, 12) >= 8)
    state = KeypointRefinement(DIM, CLASSES, 2, POINTS).initial_state(draw(2, 3, 1 + POINTS, 2), memory)
    assert (state.features[..., :4] >= 1).all()
    assert not state.features[..., 4:].any()
    assert state.ratios is not None
    torch.testing.assert_close(state.ratios, torch.tensor([4 / 6, 1.0]).expand(2, 1, 1, 2))


def test_gradients_of_the_refinement_stop_between_layers() -> None:
    refinement = randomize(KeypointRefinement(DIM, CLASSES, 2, POINTS), 0.2).train()
    first, second = (draw(1, 2, 1 + POINTS, DIM, seed=seed).requires_grad_() for seed in (4, 5))
    state = refinement.initial_state(draw(1, 2, 1 + POINTS, 2), random_memory(1))
    state, predicted = refinement(0, first, state, predict=True)
    assert not state.references.requires_grad
    assert not state.tokens.requires_grad
    assert state.corners.requires_grad  # as in D-FINE, the logits of the distributions add up
    predicted["initial"].keypoints.sum().backward(retain_graph=True)
    assert refinement.corner_heads[0].layers[-1].weight.grad is None
    _, predicted = refinement(1, second, state, predict=True)
    predicted["main"].logits.sum().backward()
    assert first.grad is not None
    assert refinement.initial_keypoint_head.layers[-1].weight.grad.any()


# ---- initial weights


def test_initial_refinement_predicts_the_references() -> None:
    """The last layer of each head is zero, but not its other layers. The parameters ``up`` and ``reg_scale`` are fixed."""
    refinement = KeypointRefinement(DIM, CLASSES, 2, POINTS)
    quality_heads = [head.reg_conf for head in refinement.quality_heads]
    heads = [
        *refinement.corner_heads,
        refinement.initial_keypoint_head,
        PoseSelection(DIM, CLASSES, 3, POINTS).pose_head,
    ]
    for head in (*heads, *quality_heads):
        assert not head.layers[-1].weight.any()
        assert not head.layers[-1].bias.any()
        assert all(layer.weight.any() for layer in head.layers[:-1])
    assert [len(head.layers) for head in heads] == [3, 3, 3, 4]
    assert [[layer.in_features for layer in head.layers] for head in quality_heads] == [[POINTS * 5, 256]] * 2
    assert heads[-1].layers[1].in_features == 2 * DIM
    constants = {name: float(p) for name, p in refinement.named_parameters() if not p.requires_grad}
    assert constants == {"up": 0.5, "reg_scale": 4.0}


def test_activation_and_dropout_are_those_of_the_arguments() -> None:
    layer = PoseDecoderLayer(DIM, HEADS, 12, [2, 2], dropout=0.25, activation="silu")
    parts = [
        KeypointPosition(DIM, activation="silu").mlp,
        *KeypointRefinement(DIM, CLASSES, 2, POINTS, activation="silu").modules(),
        PoseSelection(DIM, CLASSES, 3, POINTS, activation="silu").pose_head,
    ]
    activations = [part.activation for part in parts if isinstance(part, MLP)]
    assert len(activations) == 7
    assert all(isinstance(activation, nn.SiLU) for activation in (layer.activation, *activations))
    assert (layer.dropout.p, layer.within_attn.dropout, layer.self_attn.dropout) == (0.25, 0.25, 0.25)
    plain = PoseDecoderLayer(DIM, HEADS, 12, [2, 2])
    assert (plain.dropout.p, plain.within_attn.dropout) == (0, 0)
    assert len(KeypointPosition(DIM).mlp.layers) == 2


@torch.no_grad()
def test_parts_keep_the_precision_of_the_queries() -> None:
    """References and targets may have another precision."""
    queries, references = draw(1, 2, 1 + POINTS, DIM).float(), draw(1, 2, 1 + POINTS, 2)
    position = KeypointPosition(DIM).float()(0, queries, references, random_memory(1))
    assert position.embedding.dtype == torch.float32
    logits = KeypointQualityEstimator(POINTS).float()(
        draw(1, 2, CLASSES).float(), references[:, :, 1:], draw(1, 6, 4, 4)
    )
    assert logits.dtype == torch.float32
    source = PoseSelection(DIM, CLASSES, 3, POINTS)
    assert source._content(draw(1, 3, DIM).float()).dtype == torch.float32


# ---- queries


@torch.no_grad()
@pytest.mark.parametrize("extra", [0, 2], ids=["one-to-one", "one-to-many"])
def test_selected_poses_equal_a_reference(extra: int) -> None:
    torch.manual_seed(0)
    source = randomize(PoseSelection(DIM, CLASSES, 3, POINTS, num_one_to_many=extra), 0.2).train()
    memory = random_memory()
    initial = source(memory)
    names = [(row, column, shape) for shape in SHAPES for row, column in itertools.product(*map(range, shape))]
    for image in range(2):
        content = source.norm(source.projection(memory.tokens[image]))
        scores = source.score_head(content)
        best = sorted(range(len(names)), key=lambda i: -float(scores[i].max()))[: 3 + extra]
        for query, token in enumerate(best):
            row, column, (height, width) = names[token]
            center = torch.tensor([(column + 0.5) / width, (row + 0.5) / height])
            offsets = source.pose_head(content[token]).view(POINTS, 2)
            keypoints = (offsets + (center / (1 - center)).log()).sigmoid()
            references = torch.cat([keypoints.mean(0, keepdim=True), keypoints])
            torch.testing.assert_close(initial.references[image, query].sigmoid(), references)
            tokens = source.content.weight[query] + source.keypoint_embedding.weight
            expected = torch.cat([source.instance_embedding.weight, tokens])
            torch.testing.assert_close(initial.content[image, query], expected)
            if query < 3:
                torch.testing.assert_close(initial.groups["encoder"].keypoints[0, image, query], keypoints)
                torch.testing.assert_close(initial.groups["encoder"].logits[0, image, query], scores[token])
    assert (initial.num_one_to_many, initial.groups["encoder"].logits.shape[2]) == (extra, 3)


def test_queries_without_gradient_but_initial_poses_with() -> None:
    source = PoseSelection(DIM, CLASSES, 3, POINTS).train()
    initial = source(random_memory())
    assert not initial.references.requires_grad
    assert initial.content.requires_grad
    initial.groups["encoder"].keypoints.sum().backward()
    assert source.pose_head.layers[-1].bias.grad.any()


def test_points_are_the_centers_of_tokens() -> None:
    """Tokens at the border of a fine map are not valid; without padding, the result is that of the same map."""
    points, valid = generate_points(Memory(torch.zeros(1, 60, DIM), [(1, 60)]))
    torch.testing.assert_close(points.sigmoid()[0, :, 0], (torch.arange(60) + 0.5) / 60, rtol=1e-6, atol=1e-6)
    assert valid[0, :, 0].tolist() == [False, *[True] * 58, False]
    padding = torch.zeros(1, 6, 8, dtype=torch.bool)
    padding[:, :, 4:] = True
    points, valid = generate_points(Memory.from_maps([torch.zeros(1, DIM, 6, 8)], padding))
    alone, _ = generate_points(Memory(torch.zeros(1, 24, DIM), [(6, 4)]))
    torch.testing.assert_close(points.unflatten(1, (6, 8))[:, :, :4].flatten(1, 2), alone)
    assert torch.equal(valid[..., 0], ~padding.flatten(1))
    assert points.isfinite().all()
    source, memory = PoseSelection(DIM, CLASSES, 3, POINTS), random_memory()
    points, valid = source.anchors(tuple(memory.spatial_shapes))
    torch.testing.assert_close(points, generate_points(memory)[0])
    assert torch.equal(valid, generate_points(memory)[1])


def denoised(targets: Targets, **options: Any) -> tuple[Any, PoseDenoising]:
    torch.manual_seed(0)
    denoising = PoseDenoising(DIM, CLASSES, POINTS, num_labels=5, sigmas=SIGMAS, **options)
    return denoising(targets), denoising


@torch.no_grad()
def test_noise_of_unit_directions_has_the_stated_similarity() -> None:
    targets = random_targets((2, 1))
    queries, _ = denoised(targets, num_queries=400, unit_directions=True, logit_eps=1e-9)
    assert (queries.num_groups, queries.group_size) == (200, 4)
    poses = queries.references.sigmoid().unflatten(1, (200, 2, 2))  # group, positive or negative, object
    for image, index in ((0, 0), (0, 1), (1, 0)):
        for point in range(POINTS):
            target = targets.keypoints[image, index, point]
            if target[2] == 0:
                assert float(poses[image, :, :, index, 1 + point].max()) < 1e-8
                continue
            one_keypoint = target.expand(200, 2, 1, 3)
            area = targets.areas[image, index].expand(200, 2)
            similarity = object_keypoint_similarity(
                poses[image, :, :, index, 1 + point, None], one_keypoint, area, [SIGMAS[point]]
            )
            inside = (poses[image, :, :, index, 1 + point] > 1e-6).all(-1) & (
                poses[image, :, :, index, 1 + point] < 1 - 1e-6
            ).all(-1)
            positive, negative = (similarity[:, i][inside[:, i]] for i in (0, 1))
            assert len(positive) > 100
            assert 0.5 - 1e-6 <= float(positive.min()) < 0.55
            assert 0.95 < float(positive.max()) <= 1
            assert 0.1 - 1e-6 <= float(negative.min()) < 0.2
            assert float(negative.max()) <= 0.5 + 1e-6


@torch.no_grad()
def test_unit_directions_are_uniform() -> None:
    """Half of the shifts point to each side, and x and y of a keypoint share one distance."""
    torch.manual_seed(0)
    denoising = PoseDenoising(DIM, CLASSES, POINTS, sigmas=SIGMAS, unit_directions=True)
    with mock.patch.object(PoseDenoising, "_exponents", side_effect=lambda like, _: torch.ones_like(like)) as exponents:
        noise = denoising._noise(draw(1, 4000, 1 + POINTS, 2), torch.arange(4000) % 2 > 0)
    assert exponents.call_args.args[0].shape[-1] == 1
    torch.testing.assert_close(noise.norm(dim=-1), torch.ones(1, 4000, 1 + POINTS))
    assert float(noise.mean(dim=(0, 1, 2)).abs().max()) < 0.02
    assert float((noise > 0.9).double().mean()) == pytest.approx(float((noise < -0.9).double().mean()), rel=0.1)


def test_default_noise_is_that_of_the_official_code() -> None:
    denoising = PoseDenoising(DIM, CLASSES, POINTS)
    assert denoising.class_embedding.weight.shape == (81, DIM)
    assert (denoising.num_queries, denoising.label_noise_ratio, denoising.logit_eps) == (20, 0.5, 1e-3)


@torch.no_grad()
def test_noise_equals_the_official_formula() -> None:
    """The directions are normalized by the norm of order -1 over the tokens of a query."""
    targets = random_targets((1, 1))
    vectors, uniform = draw(2, 2, 1 + POINTS, 2, seed=7), draw(2, 2, 1, 1, seed=8) * 1e-3
    with (
        mock.patch.object(PoseDenoising, "_exponents", return_value=uniform),
        mock.patch.object(torch, "rand_like", return_value=vectors),
    ):
        queries, _ = denoised(targets, num_queries=1, logit_eps=1e-9)
    for image, query, point in itertools.product(range(2), range(2), range(POINTS)):
        x, y, visibility = targets.keypoints[image, 0, point].tolist()
        actual = queries.references[image, query, 1 + point].sigmoid()
        if visibility == 0:
            assert float(actual.max()) < 1e-8
            continue
        scale = math.sqrt(2 * float(uniform[image, query]) * float(targets.areas[image, 0])) * 2 * SIGMAS[point]
        norms = [1 / sum(1 / float(v) for v in vectors[image, query, :, axis]) for axis in (0, 1)]
        shifts = [scale * float(vectors[image, query, 1 + point, axis]) / norms[axis] for axis in (0, 1)]
        expected = torch.tensor([x + shifts[0], y + shifts[1]]).clamp(0, 1)
        torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7)
    center = (targets.boxes[:, 0, :2] + targets.boxes[:, 0, 2:]) / 2
    torch.testing.assert_close(queries.references[:, :, 0].sigmoid(), center[:, None].expand(-1, 2, -1))


@torch.no_grad()
def test_denoising_queries_are_embeddings_of_labels_and_keypoints() -> None:
    targets = random_targets((2, 1))
    queries, denoising = denoised(targets, num_queries=400)
    embeddings = denoising.class_embedding.weight
    assert embeddings.shape == (6, DIM)
    content, valid = queries.content, targets.valid.repeat(1, 400)
    assert not content[~valid].any()
    assert not queries.references[~valid].any()
    assert torch.equal(content[valid][:, 1:], denoising.keypoint_embedding.weight.expand(int(valid.sum()), -1, -1))
    labels = (content[valid][:, 0, None] == embeddings).all(dim=-1).float().argmax(dim=-1)
    replaced = labels != targets.labels.repeat(1, 400)[valid]
    # A quarter is replaced by one of five labels.
    assert float(replaced.double().mean()) == pytest.approx(0.25 * 4 / 5, abs=0.04)
    assert set(labels.tolist()) == set(range(5))


def test_denoising_without_objects_has_no_queries() -> None:
    targets = Targets.collate([torch.zeros(0)] * 2, [torch.zeros(0, 4)] * 2, keypoints=[torch.zeros(0, POINTS, 3)] * 2)
    queries, denoising = denoised(targets)
    assert (len(queries), queries.content.shape) == (0, (2, 0, 1 + POINTS, DIM))
    assert (queries.num_groups, queries.group_size) == (0, 0)
    queries.content.sum().backward()
    assert denoising.class_embedding.weight.grad is not None
    with pytest.raises(ValueError, match="needs ground truth with keypoints"):
        denoising(Targets(targets.labels, targets.boxes, targets.counts))


# ---- decoder


def pose_decoder(**options: Any) -> Decoder:
    torch.manual_seed(0)
    return randomize(
        Decoder(
            queries=PoseSelection(DIM, CLASSES, 3, POINTS),
            layer=PoseDecoderLayer(DIM, HEADS, 12, [2, 2]),
            refinement=KeypointRefinement(DIM, CLASSES, 2, POINTS),
            position=options.pop("position", KeypointPosition(DIM)),
            denoising=options.pop("denoising", PoseDenoising(DIM, CLASSES, POINTS)),
            input_proj=MapProjection([DIM, DIM], DIM, skip_equal=True),
            num_layers=2,
            **options,
        ),
        0.1,
    )


def test_decoder_returns_the_groups_of_the_criterion() -> None:
    decoder, targets = pose_decoder(), random_targets()
    groups, denoising = decoder(maps_of(random_memory()), targets)
    assert denoising is not None
    assert len(denoising) == 20 * 2
    assert (decoder.predicted_fields, decoder.num_keypoints) == (("keypoints",), POINTS)
    shapes = {name: tuple(group.keypoints.shape) for name, group in groups.items()}
    assert shapes == {
        "main": (2, 2, 3, POINTS, 2),
        "initial": (1, 2, 3, POINTS, 2),
        "encoder": (1, 2, 3, POINTS, 2),
        "denoising": (2, 2, 40, POINTS, 2),
        "denoising_initial": (1, 2, 40, POINTS, 2),
    }


@torch.no_grad()
def test_padding_does_not_change_predictions() -> None:
    decoder = pose_decoder().eval()
    maps = maps_of(random_memory())
    expected = decoder(maps)[0]["main"]
    padding = torch.zeros(2, 12, 16, dtype=torch.bool)
    padding[:, :, 8:] = True
    padded = [torch.cat([level, torch.full_like(level, 9.0)], dim=3) for level in maps]
    actual = decoder(padded, padding=padding)[0]["main"]
    torch.testing.assert_close(actual.keypoints, expected.keypoints)
    torch.testing.assert_close(actual.logits, expected.logits)


def test_parts_for_boxes_are_rejected() -> None:
    with pytest.raises(
        ValueError, match="KeypointRefinement refine the keypoints of an object, but BoxPosition its box"
    ):
        pose_decoder(position=BoxPosition(DIM), denoising=None)
    with pytest.raises(ValueError, match="but ContrastiveDenoising its box"):
        pose_decoder(denoising=ContrastiveDenoising(DIM, CLASSES))


# ---- losses and matching


def random_predictions(layers: int = 2, queries: int = 5, seed: int = 0) -> Predictions:
    keypoints = draw(layers, 2, queries, POINTS, 2, seed=seed)
    logits = draw(layers, 2, queries, CLASSES, seed=seed + 1) * 4 - 2
    return Predictions(logits, draw(layers, 2, queries, 4, seed=seed + 2), keypoints=keypoints)


def test_class_cost_is_that_of_detection() -> None:
    predictions, targets = random_predictions(), random_targets()
    expected = MatchingCost(3.0, 0.0, 0.0)(predictions.logits, predictions.boxes, targets)
    torch.testing.assert_close(ClassCost(3.0)(predictions.logits, predictions.boxes, targets), expected)


def similarity_of(predicted: Tensor, targets: Targets, image: int, index: int) -> float:
    total = labeled = 0.0
    area = float(targets.areas[image, index])
    for (x, y), (tx, ty, visibility), sigma in zip(
        predicted.tolist(), targets.keypoints[image, index].tolist(), SIGMAS, strict=True
    ):
        if visibility > 0:
            total += math.exp(-((x - tx) ** 2 + (y - ty) ** 2) / (2 * area * (2 * sigma) ** 2))
            labeled += 1
    return total / labeled


def test_losses_equal_formulas() -> None:
    """Quality is OKS with the area of the object; keypoints are compared for the union of the matches of all groups."""
    targets, main, encoder = random_targets(), random_predictions(), random_predictions(1, seed=5)
    matcher = HungarianMatcher(ClassCost(2.0), further_costs=[KeypointCost(10.0, 4.0, SIGMAS)])
    criterion = Criterion(
        CLASSES,
        [Supervision("main", "_{}"), Supervision("encoder", "_enc")],
        matcher,
        losses={
            "loss_vfl": VarifocalLoss(2.0, alpha=0.25),
            "loss_keypoints": KeypointL1Loss(10.0, localization=True),
            "loss_oks": KeypointOKSLoss(4.0, SIGMAS, localization=True),
        },
        quality=KeypointQuality(SIGMAS),
    )
    actual = criterion({"main": main, "encoder": encoder}, targets)
    matches = matcher([main, encoder], [targets, targets])
    union = union_of_matches(Matches.join(matches))
    assert len(union) > targets.total
    layers = [("_0", main, 0, matches[0]), ("_1", main, 1, matches[0]), ("_enc", encoder, 0, matches[1])]
    for suffix, group, layer, group_matches in layers:
        distance = dissimilarity = 0.0
        for image, query, index in zip(union.image, union.query, union.target, strict=True):
            predicted, target = group.keypoints[layer, image, query], targets.keypoints[image, index]
            distance += float(((predicted - target[:, :2]).abs() * (target[:, 2:] > 0)).sum())
            dissimilarity += 1 - similarity_of(predicted, targets, image, index)
        assert float(actual["loss_keypoints" + suffix]) == pytest.approx(10 * distance / len(union))
        assert float(actual["loss_oks" + suffix]) == pytest.approx(4 * dissimilarity / len(union))
        scores = group.logits[layer].sigmoid()
        wanted, weight = torch.zeros_like(scores), 0.25 * scores**2
        for row in zip(
            group_matches.layer, group_matches.image, group_matches.query, group_matches.target, strict=True
        ):
            if row[0] == layer:
                quality = similarity_of(group.keypoints[row[:3]], targets, row[1], row[3])
                position = (row[1], row[2], int(targets.labels[row[1], row[3]]))
                wanted[position] = weight[position] = quality
        entropy = F.binary_cross_entropy(scores, wanted, weight=weight, reduction="sum")
        assert float(actual["loss_vfl" + suffix]) == pytest.approx(float(2 * entropy / targets.total))


def test_quality_needs_keypoints() -> None:
    targets, predictions = random_targets(), random_predictions()
    criterion = Criterion(
        CLASSES, [Supervision("main", "_{}")], losses={"loss_vfl": VarifocalLoss()}, quality=KeypointQuality()
    )
    with pytest.raises(ValueError, match="KeypointQuality needs keypoints"):
        criterion({"main": Predictions(predictions.logits, predictions.boxes)}, targets)


def test_areas_of_boxes_replace_unknown_areas() -> None:
    targets = random_targets()
    boxes_only = Targets(targets.labels, targets.boxes, targets.counts, keypoints=targets.keypoints)
    torch.testing.assert_close(boxes_only.object_areas, targets.boxes[..., 2] * targets.boxes[..., 3])
    assert targets.object_areas is targets.areas
