"""DN-DETR and H-DETR, as far as they differ from DAB-DETR and Deformable DETR, against references from the papers."""

import math

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from scipy.optimize import linear_sum_assignment
from torch import nn

from deim.modeling.decoder import AnchorPosition, ConditionalDecoderLayer, ModulatedAnchorPosition
from deim.modeling.decoder.decoder import attention_pattern
from deim.modeling.decoder.position import QueryPosition
from deim.modeling.queries import LearnedAnchors, QueryDenoising, RegionProposals
from deim.structures.memory import Memory
from deim.structures.predictions import Predictions, Targets
from tests.models import dense_mask, randomize, recipe
from tests.parity.test_losses_reference import CLASSES, box_losses, class_loss, matching_cost

DIM = 32


def targets_of(counts: list[int], seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(CLASSES, (n,), generator=generator) for n in counts]
    return Targets.collate(labels, [torch.rand(n, 4, generator=generator) * 0.3 + 0.3 for n in counts])


def memory_of(shapes: list[tuple[int, int]], images: int = 2) -> Memory:
    generator = torch.Generator().manual_seed(1)
    size = (images, sum(h * w for h, w in shapes), DIM)
    tokens, position = torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    padding = torch.zeros(size[:2], dtype=torch.bool)
    padding[1, -1] = True  # the last token of the last map of the second image
    return Memory(tokens, shapes, padding, position)


def test_denoising_without_noise_repeats_objects_in_every_group() -> None:
    counts, groups = [3, 0, 1], 2
    targets = targets_of(counts)
    denoising = QueryDenoising(DIM, CLASSES, groups, label_noise_ratio=0.0, box_noise_scale=0.0)
    queries = denoising(targets)
    assert (queries.num_groups, queries.group_size, len(queries)) == (2, 3, 6)
    for image, count in enumerate(counts):
        for query in range(6):
            target = query % 3
            is_valid = target < count
            assert bool(queries.classification_mask[image, query]) is is_valid
            expected, box = torch.zeros(DIM), torch.zeros(4)
            if is_valid:
                expected[:-1] = denoising.class_embedding.weight[targets.labels[image, target]]
                expected[-1] = 1  # indicator of denoising queries
                box = targets.boxes[image, target].logit()
            torch.testing.assert_close(queries.content[image, query], expected)
            torch.testing.assert_close(queries.references[image, query], box, check_dtype=False)
    masked = dense_mask(attention_pattern(queries, 4, 0, queries.content.device), 10)
    for query_index in range(10):
        for key_index in range(10):
            group, other_group = (x // 3 if x < 6 else None for x in (query_index, key_index))
            allowed = other_group is None or group == other_group
            assert bool(masked[query_index, key_index]) is not allowed


def test_noise_strength_equals_published_values() -> None:
    """A fifth of the labels is redrawn; centers move by up to 0.4 half sides, sides change by up to 0.4 sides."""
    torch.manual_seed(0)
    targets = targets_of([200] * 4)
    denoising = QueryDenoising(DIM, CLASSES)
    nn.init.zeros_(denoising.class_embedding.weight)
    denoising.class_embedding.weight.data[:, 0] = torch.arange(CLASSES)
    queries = denoising(targets)
    assert queries.num_groups == 5
    labels, boxes = targets.labels.repeat(1, 5), targets.boxes.repeat(1, 5, 1)
    changed = (queries.content[..., 0] != labels).float().mean()
    assert float(changed) == pytest.approx(0.2 * (1 - 1 / CLASSES), abs=0.02)
    moved = (queries.references.sigmoid() - boxes).abs() / boxes[..., 2:].repeat(1, 1, 2)
    limit = torch.tensor([0.2, 0.2, 0.4, 0.4])
    assert (moved <= limit + 1e-4).all()
    torch.testing.assert_close(moved.flatten(0, 1).amax(dim=0), limit, atol=0.01, rtol=0, check_dtype=False)


def reference_losses(predictions: Predictions, targets: Targets, pairs: list, normalizer: float, layer: int) -> tuple:
    """Return the focal, L1 and GIoU losses of one layer; ``pairs`` are (query, target) for each image."""
    logits, boxes = predictions.logits[layer], predictions.boxes[layer]
    focal = l1_sum = giou_sum = 0.0
    for image, (pairs_of_image, count) in enumerate(zip(pairs, targets.counts, strict=True)):
        labels, target_boxes = targets.labels[image, :count], targets.boxes[image, :count]
        focal += class_loss("focal", logits[image], boxes[image], pairs_of_image, labels, target_boxes)
        l1, giou = box_losses(boxes[image], pairs_of_image, target_boxes)
        l1_sum, giou_sum = l1_sum + l1, giou_sum + giou
    return focal / normalizer, l1_sum / normalizer, giou_sum / normalizer


def assignment(logits: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor, target_boxes: torch.Tensor) -> list:
    """Return the (query, target) pairs with the smallest cost."""
    cost = [
        [
            matching_cost(float(query_logits[label]), box, target)
            for label, target in zip(labels, target_boxes, strict=True)
        ]
        for query_logits, box in zip(logits, boxes, strict=True)
    ]
    return list(zip(*linear_sum_assignment(np.array(cost).reshape(len(boxes), -1)), strict=True))


def predictions_of(images: int, queries: int, seed: int, layers: int = 2) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, images, queries, CLASSES, generator=generator)
    return Predictions(logits, torch.rand(layers, images, queries, 4, generator=generator) * 0.3 + 0.3)


@pytest.mark.parametrize("counts", [[1], [2], [3, 0, 1]], ids=str)
def test_losses_of_dn_detr(counts: list[int]) -> None:
    """Padded denoising queries do not contribute to the losses, not even as background."""
    criterion = instantiate(recipe("dn_detr_r50_50ep_coco", f"model.num_classes={CLASSES}").model.criterion)
    targets, images, size = targets_of(counts), len(counts), max(counts)
    denoising = QueryDenoising(DIM, CLASSES)(targets)
    groups = {"main": predictions_of(images, 8, 0), "denoising": predictions_of(images, 5 * size, 1)}
    actual = criterion(groups, targets, denoising)
    for layer in range(2):
        pairs = [[(g * size + t, t) for g in range(5) for t in range(n)] for n in counts]
        without_padding = Predictions(groups["denoising"].logits.clone(), groups["denoising"].boxes)
        for image, image_pairs in enumerate(pairs):
            padded = sorted(set(range(5 * size)) - {query for query, _ in image_pairs})
            without_padding.logits[:, image, padded] = -30.0  # the background loss of these queries is negligible
        expected = reference_losses(without_padding, targets, pairs, 5 * sum(counts), layer)
        for name, weight, value in zip(("focal", "bbox", "giou"), (1, 5, 2), expected, strict=True):
            assert float(actual[f"loss_{name}_dn_{layer}"]) == pytest.approx(weight * value, rel=1e-6)


@pytest.mark.parametrize("counts", [[1], [2], [3, 0, 1]], ids=str)
def test_losses_of_h_detr(counts: list[int]) -> None:
    """One-to-one, one-to-many with each object six times, and class-agnostic proposals."""
    criterion = instantiate(recipe("h_deformable_detr_r50_12ep_coco", f"model.num_classes={CLASSES}").model.criterion)
    targets, images = targets_of(counts), len(counts)
    repeated = Targets.collate(
        [targets.labels[i, :n].repeat(6) for i, n in enumerate(counts)],
        [targets.boxes[i, :n].repeat(6, 1) for i, n in enumerate(counts)],
    )
    groups = {
        "main": predictions_of(images, 8, 0),
        "hybrid": predictions_of(images, 30, 1),
        "encoder": predictions_of(images, 40, 2, layers=1),
    }
    targets_and_suffixes = {
        "main": (targets, {0: "_aux_0", 1: ""}),
        "hybrid": (repeated, {0: "_o2m_0", 1: "_o2m"}),
        "encoder": (targets.without_classes(), {0: "_enc"}),
    }
    actual = criterion(groups, targets)
    for name, (group_targets, suffixes) in targets_and_suffixes.items():
        for layer, suffix in suffixes.items():
            logits, boxes = groups[name].logits[layer], groups[name].boxes[layer]
            pairs = [
                assignment(logits[i], boxes[i], group_targets.labels[i, :n], group_targets.boxes[i, :n])
                for i, n in enumerate(group_targets.counts)
            ]
            expected = reference_losses(groups[name], group_targets, pairs, sum(group_targets.counts), layer)
            for loss, weight, value in zip(("focal", "bbox", "giou"), (2, 5, 2), expected, strict=True):
                assert float(actual[f"loss_{loss}{suffix}"]) == pytest.approx(weight * value, rel=1e-6), (name, layer)


def test_pattern_order() -> None:
    source = LearnedAnchors(DIM, num_queries=4, num_patterns=3)
    queries = source(memory_of([(2, 2)]))
    assert queries.content.shape == (2, 12, DIM)
    for pattern in range(3):
        for anchor in range(4):
            content = torch.cat([source.content.weight[0], torch.zeros(1)]) + source.patterns.weight[pattern]
            torch.testing.assert_close(queries.content[1, 4 * pattern + anchor], content)
            torch.testing.assert_close(queries.references[1, 4 * pattern + anchor], source.anchors.weight[anchor])


def sines(value: float, dim: int) -> np.ndarray:
    """Return DETR's sine embedding of one coordinate."""
    angles = [2 * math.pi * value / 10000 ** (2 * (k // 2) / dim) for k in range(dim)]
    return np.array([math.cos(angle) if k % 2 else math.sin(angle) for k, angle in enumerate(angles)])


@torch.no_grad()
def test_anchor_sine_embedding() -> None:
    torch.manual_seed(0)
    memory, boxes, queries = memory_of([(2, 2)]), torch.rand(2, 3, 4) * 0.5 + 0.2, torch.randn(2, 3, DIM)
    memory.padding = None
    position, modulated = (randomize(kind(DIM), 0.3) for kind in (AnchorPosition, ModulatedAnchorPosition))
    x, y, w, h = boxes[1, 2].tolist()
    embedded = np.concatenate([sines(v, DIM // 2) for v in (y, x, w, h)])
    plain = position.box_mlp(torch.tensor(embedded, dtype=torch.float64))
    torch.testing.assert_close(position(0, queries, boxes, memory).embedding[1, 2], plain)
    scale = position.scale_mlp(queries[1, 2])
    torch.testing.assert_close(position(1, queries, boxes, memory).embedding[1, 2], plain * scale)
    # DAB-DETR, equation 6: the width modulates the columns, the height the rows
    width, height = (modulated.size_mlp(queries[1, 2]).sigmoid() / boxes[1, 2, 2:]).tolist()
    expected = np.concatenate([sines(y, DIM // 2) * height, sines(x, DIM // 2) * width])
    center = modulated(0, queries, boxes, memory).center[1, 2]
    torch.testing.assert_close(center, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_cross_attention_per_level() -> None:
    torch.manual_seed(0)
    heads, shapes = 4, [(3, 2), (2, 1)]
    memory, queries = memory_of(shapes), torch.randn(2, 3, DIM)
    position = QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    attention = randomize(ConditionalDecoderLayer(DIM, heads, 16, num_levels=2), 0.2).cross_attn
    projected_queries = torch.randn(2, 3, DIM)
    actual = attention(queries, position, memory, projected_queries)
    image, query, width = 1, 2, DIM // heads
    query_vector = attention.query_content(queries[image, query]) + attention.query_position(
        position.embedding[image, query]
    )
    sine = attention.query_sine(position.center[image, query])
    levels, start = [], 0
    for height, columns in shapes:
        keys, scores = range(start, start + height * columns), []
        start += height * columns
        keys = [k for k in keys if not memory.padding[image, k]]
        for k in keys:
            position_key = attention.key_position(memory.position[image, k])
            content = attention.key_content(memory.tokens[image, k]) + position_key
            per_head = [
                (
                    query_vector[i : i + width] @ content[i : i + width]
                    + sine[i : i + width] @ position_key[i : i + width]
                )
                / math.sqrt(2 * width)
                for i in range(0, DIM, width)
            ]
            scores.append(torch.stack(per_head))
        attention_weights = torch.stack(scores).softmax(dim=0)
        values = torch.stack([attention.value_proj(memory.tokens[image, k]) for k in keys])
        levels.append((attention_weights.repeat_interleave(width, dim=1) * values).sum(dim=0))
    level_weights = attention.level_weights(projected_queries[image, query]).softmax(dim=0)
    expected = attention.output_proj(level_weights[0] * levels[0] + level_weights[1] * levels[1])
    torch.testing.assert_close(actual[image, query], expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_mixed_selection() -> None:
    torch.manual_seed(0)
    source = randomize(RegionProposals(DIM, CLASSES, 3, num_one_to_many=2, mixed_selection=True), 0.2)
    queries = source(memory_of([(4, 4)]))
    assert queries.num_one_to_many == 2
    torch.testing.assert_close(queries.content[0], source.content.weight)
    box = queries.references[0, 1].sigmoid().tolist()
    embedded = torch.tensor(np.concatenate([sines(v, DIM // 2) for v in box]), dtype=torch.float64)
    expected = source.box_norm(source.box_projection(embedded))[:DIM]
    torch.testing.assert_close(queries.position[0, 1], expected, rtol=1e-6, atol=1e-6)
