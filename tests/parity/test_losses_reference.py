"""The criterion agrees with a slow reference that evaluates the papers' equations object by object."""

import itertools
import math

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from deim.modeling.losses import (
    BoxGIoULoss,
    BoxL1Loss,
    Criterion,
    DistillationLoss,
    FineGrainedLocalizationLoss,
    FocalLoss,
    MatchabilityAwareLoss,
    VarifocalLoss,
    functional,
)
from deim.modeling.losses.supervision import Supervision
from deim.modeling.queries.denoising import DenoisingGroups
from deim.structures.distribution import weighting_function
from deim.structures.predictions import EdgeDistributions, Predictions, Targets
from tests.models import recipe

REG_MAX, UP, REG_SCALE, CLASSES = 8, 0.5, 4.0, 3


def corners_of(box):
    x, y, w, h = (float(v) for v in box)
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def overlap(a, b):
    """Return IoU and GIoU of two CXCYWH boxes."""
    a, b = corners_of(a), corners_of(b)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return shared / union, shared / union - (hull - union) / hull


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def matching_cost(logit, box, target):
    p = sigmoid(logit)
    focal = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8) - 0.75 * p**2 * -math.log(1 - p + 1e-8)
    l1 = sum(abs(float(a) - float(b)) for a, b in zip(box, target, strict=True))
    return 2 * focal + 5 * l1 - 2 * overlap(box, target)[1]


def best_assignment(logits, boxes, labels, targets):
    """Return the query of each target by exhaustive search."""
    candidates = itertools.permutations(range(len(boxes)), len(targets))
    return min(
        candidates,
        key=lambda queries: sum(
            matching_cost(float(logits[q, labels[t]]), boxes[q], targets[t]) for t, q in enumerate(queries)
        ),
    )


def class_loss(kind, logits, boxes, pairs, labels, targets):
    """Return the classification loss of one image, summed over queries and classes."""
    total = 0.0
    matched = dict(pairs)
    for q, k in itertools.product(range(len(boxes)), range(CLASSES)):
        x, p = float(logits[q, k]), sigmoid(float(logits[q, k]))
        positive = q in matched and int(labels[matched[q]]) == k
        quality = overlap(boxes[q], targets[matched[q]])[0] if positive else 0.0
        if kind == "mal":
            target, weight = quality**1.5, 1.0 if positive else p**1.5
        elif kind == "vfl":
            target, weight = quality, quality if positive else 0.75 * p**2
        else:
            target = float(positive)
            weight = 0.25 * (1 - p) ** 2 if positive else 0.75 * p**2
        total += weight * -(target * math.log(p) + (1 - target) * math.log(sigmoid(-x)))
    return total


def box_losses(boxes, pairs, targets):
    l1 = sum(float((boxes[q] - targets[t]).abs().sum()) for q, t in pairs)
    return l1, sum(1 - overlap(boxes[q], targets[t])[1] for q, t in pairs)


def softmax(x):
    e = np.exp(np.asarray(x, dtype=np.float64) - max(x))
    return e / e.sum()


def fgl_loss(corners, references, boxes, pairs, targets, bins):
    total = 0.0
    for q, t in pairs:
        x, y, w, h = (float(v) for v in references[q])
        x1, y1, x2, y2 = corners_of(targets[t])
        edges = [(x - x1) / (w / REG_SCALE), (y - y1) / (h / REG_SCALE)]
        edges += [(x2 - x) / (w / REG_SCALE), (y2 - y) / (h / REG_SCALE)]
        for edge, offset in enumerate(e - REG_SCALE / 2 for e in edges):
            probability = softmax(corners[q, edge].tolist())
            left = min(max(sum(b <= offset for b in bins) - 1, 0), REG_MAX - 1)
            right_weight = min(max((offset - bins[left]) / (bins[left + 1] - bins[left]), 0), 1)
            entropy = -(1 - right_weight) * math.log(probability[left]) - right_weight * math.log(probability[left + 1])
            total += entropy * overlap(boxes[q], targets[t])[0]
    return total


def ddf_parts(corners, teacher, teacher_logits, boxes, pairs, targets):
    """Return the weighted divergences of the box edges of one image, for matched and for unmatched queries."""
    matched, parts = dict(pairs), ([], [])
    for q in range(len(boxes)):
        if q in matched:
            weight = overlap(boxes[q], targets[matched[q]])[0]
        else:
            weight = max(sigmoid(float(x)) for x in teacher_logits[q])
        for edge in range(4):
            student = softmax((corners[q, edge] / 5).tolist())
            target = softmax((teacher[q, edge] / 5).tolist())
            parts[q not in matched].append(25 * weight * float((target * np.log(target / student)).sum()))
    return parts


def make_case(seed, counts, layers=3, queries=5, denoising_groups=2):
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape):
        random = torch.rand(*shape, 4, generator=generator)
        return torch.cat([0.3 + 0.4 * random[..., :2], 0.1 + 0.3 * random[..., 2:]], dim=-1)

    def predictions(num_layers, has_edges, num_queries=queries):
        shape = (num_layers, len(counts), num_queries)
        edges = EdgeDistributions(
            torch.randn(*shape, 4, REG_MAX + 1, generator=generator),
            boxes(len(counts), num_queries),
            weighting_function(REG_MAX, torch.tensor(UP), torch.tensor(REG_SCALE)),
            torch.tensor([REG_SCALE]),
        )
        logits = torch.randn(*shape, CLASSES, generator=generator)
        return Predictions(logits, boxes(*shape), edges if has_edges else None)

    groups = {
        "main": predictions(layers, True),
        "initial": predictions(1, False),
        "encoder": predictions(1, False),
    }
    targets = Targets.collate(
        [torch.randint(CLASSES, (n,), generator=generator) for n in counts], [boxes(n) for n in counts]
    )
    denoising = None
    if max(counts):
        num_queries = 2 * max(counts) * denoising_groups  # each group has positives and negatives
        groups["denoising"] = predictions(layers, True, num_queries)
        groups["denoising_initial"] = predictions(1, False, num_queries)
        denoising = DenoisingGroups(num_groups=denoising_groups, group_size=num_queries // denoising_groups)
    return groups, targets, denoising


def reference_losses(kind, groups, targets, denoising, use_union=True):
    counts, total = targets.counts, sum(targets.counts)
    bins = weighting_function(REG_MAX, torch.tensor(UP), torch.tensor(REG_SCALE)).tolist()
    labels = [targets.labels[b, :n] for b, n in enumerate(counts)]
    target_boxes = [targets.boxes[b, :n] for b, n in enumerate(counts)]
    images = range(len(counts))
    own_pairs = {
        (name, layer): [
            [
                (q, t)
                for t, q in enumerate(
                    best_assignment(
                        groups[name].logits[layer, b], groups[name].boxes[layer, b], labels[b], target_boxes[b]
                    )
                )
            ]
            for b in images
        ]
        for name in ("main", "initial", "encoder")
        if name in groups
        for layer in range(len(groups[name].logits))
    }
    union = []
    for b in images:
        votes = {}
        for pairs in own_pairs.values():
            for q, t in pairs[b]:
                votes.setdefault(q, []).append(t)
        # max() returns the first maximum; sorted() makes that the smallest target
        union.append([(q, max(sorted(set(ts)), key=ts.count)) for q, ts in votes.items()])
    denoising_groups = 0 if denoising is None else denoising.num_groups
    dn = [[(g * 2 * max(counts) + t, t) for g in range(denoising_groups) for t in range(n)] for n in counts]
    losses = {}
    matched = sum(map(len, union))
    queries = groups["main"].logits.shape[2] * len(counts)
    # Each query has 4 edges. D-FINE's code scales the numbers of queries to a batch of 8 images.
    scale = 4 * 8 / len(counts)
    balance = math.sqrt(matched * scale), math.sqrt((queries - matched) * scale)
    suffixes = {
        "main": lambda i, n: "" if i == n - 1 else f"_aux_{i}",
        "initial": lambda i, n: "_pre",
        "encoder": lambda i, n: f"_enc_{i}",
        "denoising": lambda i, n: f"_dn_{i}",
        "denoising_initial": lambda i, n: "_dn_pre",
    }
    for name, predictions in groups.items():
        layers = len(predictions.logits)
        is_denoising = name.startswith("denoising")
        objects = max(total, 1) * (denoising_groups if is_denoising else 1)
        box_normalizer = max(matched, 1) if use_union and not is_denoising else objects
        for layer in range(layers):
            suffix = suffixes[name](layer, layers)
            logits, boxes = predictions.logits[layer], predictions.boxes[layer]
            pairs = dn if is_denoising else own_pairs[name, layer]
            box_pairs = dn if is_denoising else union if use_union else own_pairs[name, layer]
            losses[f"loss_{kind}{suffix}"] = (
                sum(class_loss(kind, logits[b], boxes[b], pairs[b], labels[b], target_boxes[b]) for b in images)
                / objects
            )
            sums = [box_losses(boxes[b], box_pairs[b], target_boxes[b]) for b in images]
            losses[f"loss_bbox{suffix}"] = sum(s[0] for s in sums) / box_normalizer
            losses[f"loss_giou{suffix}"] = sum(s[1] for s in sums) / box_normalizer
            if predictions.edges is None:
                continue
            corners, references = predictions.edges.corners[layer], predictions.edges.references
            losses[f"loss_fgl{suffix}"] = (
                sum(fgl_loss(corners[b], references[b], boxes[b], box_pairs[b], target_boxes[b], bins) for b in images)
                / box_normalizer
            )
            if layer < layers - 1:
                parts = [
                    ddf_parts(
                        corners[b],
                        predictions.edges.corners[-1, b],
                        predictions.logits[-1, b],
                        boxes[b],
                        box_pairs[b],
                        target_boxes[b],
                    )
                    for b in images
                ]
                means = [
                    np.mean(list(itertools.chain(*(p[is_unmatched] for p in parts))) or [0.0])
                    for is_unmatched in (0, 1)
                ]
                losses[f"loss_ddf{suffix}"] = np.dot(means, balance) / sum(balance)
    return losses


CLASSIFICATION_LOSSES = {
    "mal": MatchabilityAwareLoss(gamma=1.5),
    "vfl": VarifocalLoss(alpha=0.75, gamma=2.0),
    "focal": FocalLoss(alpha=0.25, gamma=2.0),
}


@pytest.mark.parametrize("kind", ["mal", "vfl", "focal"])
@pytest.mark.parametrize("counts", [[1], [2], [3, 1], [2, 0, 4], [0, 0]], ids=str)
def test_every_term_equals_the_reference(kind: str, counts: list[int]) -> None:
    losses = {
        f"loss_{kind}": CLASSIFICATION_LOSSES[kind],
        "loss_bbox": BoxL1Loss(),
        "loss_giou": BoxGIoULoss(),
        "loss_fgl": FineGrainedLocalizationLoss(),
        "loss_ddf": DistillationLoss(),
    }
    supervision = instantiate(recipe("dfine_l_coco").model.criterion.supervision)
    criterion = Criterion(CLASSES, supervision, losses=losses)
    for seed in range(3):
        groups, targets, denoising = make_case(seed, counts, denoising_groups=seed + 1)
        actual = criterion(groups, targets, denoising)
        expected = reference_losses(kind, groups, targets, denoising)
        assert set(actual) == set(expected)
        for name, value in expected.items():
            assert float(actual[name]) == pytest.approx(value, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("kind", ["mal", "vfl"])
@pytest.mark.parametrize("counts", [[1], [2], [2, 0, 4], [0, 0]], ids=str)
def test_every_term_of_rtdetr_equals_the_reference(kind: str, counts: list[int]) -> None:
    """Without distributions, each layer uses its own matching."""
    config = recipe("rtdetrv2_r50vd_6x_coco" if kind == "vfl" else "deim_rtdetrv2_r50vd_60e_coco").model.criterion
    config.num_classes = CLASSES
    criterion = instantiate(config)
    assert set(criterion.losses) == {f"loss_{kind}", "loss_bbox", "loss_giou"}
    for seed in range(3):
        groups, targets, denoising = make_case(seed, counts, denoising_groups=seed + 1)
        groups = {n: Predictions(p.logits, p.boxes) for n, p in groups.items() if "initial" not in n}
        actual = criterion(groups, targets, denoising)
        expected = reference_losses(kind, groups, targets, denoising, use_union=False)
        assert set(actual) == set(expected)
        for name, value in expected.items():
            weight = criterion.losses["_".join(name.split("_")[:2])].weight
            assert float(actual[name]) == pytest.approx(weight * value, rel=1e-6, abs=1e-9), name


def test_focal_weights_of_positives_and_negatives() -> None:
    """Check the parameters of the classification losses on a positive and a negative logit."""
    x = torch.tensor([0.3, -0.8], dtype=torch.float64)
    positive, quality = torch.tensor([True, False]), torch.tensor([0.6, 0.0], dtype=torch.float64)
    positive_score, negative_score = sigmoid(0.3), sigmoid(-0.8)

    def entropy(probability: float, target: float) -> float:
        return -target * math.log(probability) - (1 - target) * math.log(1 - probability)

    actual = functional.matchability_aware_loss(x, positive, quality, gamma=1.2, alpha=0.4).tolist()
    assert actual == pytest.approx(
        [entropy(positive_score, 0.6**1.2), 0.4 * negative_score**1.2 * entropy(negative_score, 0)]
    )
    actual = functional.matchability_aware_loss(x, positive, quality).tolist()
    assert actual == pytest.approx(
        [entropy(positive_score, 0.6**1.5), negative_score**1.5 * entropy(negative_score, 0)]
    )
    actual = functional.varifocal_loss(x, positive, quality).tolist()
    assert actual == pytest.approx(
        [0.6 * entropy(positive_score, 0.6), 0.75 * negative_score**2 * entropy(negative_score, 0)]
    )
    actual = functional.focal_loss(x, positive).tolist()
    assert actual == pytest.approx(
        [
            0.25 * (1 - positive_score) ** 2 * entropy(positive_score, 1),
            0.75 * negative_score**2 * entropy(negative_score, 0),
        ]
    )
    actual = functional.focal_loss(x, positive, alpha=-1, gamma=1.0).tolist()
    assert actual == pytest.approx(
        [(1 - positive_score) * entropy(positive_score, 1), negative_score * entropy(negative_score, 0)]
    )


def test_distillation_temperature() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 3, 4, 9), torch.randn(1, 3, 4, 9)

    def divergence(temperature: float) -> float:
        target, actual = (softmax((x / temperature).tolist()) for x in (teacher[0, 1, 2], student[1, 0, 1, 2]))
        return temperature**2 * float((target * np.log(target / actual)).sum())

    for options, temperature in (({}, 5.0), ({"temperature": 2.0}, 2.0)):
        actual = functional.decoupled_distillation_loss(student, teacher, **options)
        assert float(actual[1, 0, 1, 2]) == pytest.approx(divergence(temperature), rel=1e-6)
    groups, targets, _ = make_case(0, [2, 1])
    main = {"main": groups["main"]}
    terms = [
        Criterion(CLASSES, [Supervision("main", "_{}")], losses={"loss_ddf": DistillationLoss(1.0, temperature_value)})(
            main, targets
        )
        for temperature_value in (5.0, 2.0)
    ]
    assert float(terms[0]["loss_ddf_0"]) != pytest.approx(float(terms[1]["loss_ddf_0"]), rel=1e-3)
    single = Predictions(*(part[:1] for part in (groups["main"].logits, groups["main"].boxes)), groups["main"].edges)
    single.edges.corners = single.edges.corners[:1]
    assert not Criterion(CLASSES, [Supervision("main", "_{}")], losses={"loss_ddf": DistillationLoss()})(
        {"main": single}, targets
    )
