"""What a detector gets right and wrong: against pycocotools, and by hand."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deim.analysis import KINDS, Found, confusion_matrix, curves_of_classes, judge
from deim.analysis.curves import best_threshold
from deim.visualization.analysis import interpolated


def found(truths: list, detections: list, crowds: list = ()) -> Found:
    """Truths and crowds as (class, box), detections as (class, score, box), best first."""
    return Found(
        "image.jpg",
        np.array([box for _, box in truths], float).reshape(-1, 4),
        np.array([label for label, _ in truths], int),
        np.array([box for _, box in crowds], float).reshape(-1, 4),
        np.array([label for label, _ in crowds], int),
        np.array([box for *_, box in detections], float).reshape(-1, 4),
        np.array([score for _, score, _ in detections], float),
        np.array([label for label, *_ in detections], int),
    )


def random_images(count: int, classes: int) -> list[Found]:
    """Objects, detections near most of them, some of them twice, and crowds."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        truths = [(int(rng.integers(classes)), _box(rng)) for _ in range(rng.integers(0, 6))]
        crowds = [(int(rng.integers(classes)), _box(rng) * 2) for _ in range(rng.integers(0, 2))]
        detections = []
        for label, box in truths * 2:
            if rng.random() < 0.7:
                kept = label if rng.random() < 0.8 else int(rng.integers(classes))
                moved = box + rng.normal(0, 4, 4)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                detections.append((kept, rng.random(), moved))
        detections += [(int(rng.integers(classes)), rng.random(), _box(rng)) for _ in range(rng.integers(0, 5))]
        images.append(found(truths, sorted(detections, key=lambda one: -one[1]), crowds))
    return images


def _box(rng: np.random.Generator) -> np.ndarray:
    corner, side = rng.uniform(0, 60, 2), rng.uniform(10, 40, 2)
    return np.concatenate([corner, corner + side])


def coco_average_precision(images: list[Found], classes: int) -> list[float]:
    """AP at IoU 0.5 of each class, by pycocotools."""
    annotations, results = [], []
    for number, one in enumerate(images):
        groups = ((one.truth_boxes, one.truth_classes, 0), (one.crowds, one.crowd_classes, 1))
        for boxes, labels, crowd in groups:
            for box, label in zip(boxes, labels, strict=True):
                wide, high = box[2:] - box[:2]
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": int(label), "iscrowd": crowd,
                                    "bbox": [*box[:2], wide, high], "area": wide * high})  # fmt: skip
        for box, score, label in zip(one.boxes, one.scores, one.classes, strict=True):
            row = {
                "image_id": number,
                "category_id": int(label),
                "score": score,
                "bbox": [*box[:2], *(box[2:] - box[:2])],
            }
            results.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": n} for n in range(len(images))], "annotations": annotations,
                         "categories": [{"id": n, "name": str(n)} for n in range(classes)]}  # fmt: skip
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, :, 0, 2].mean(axis=0).tolist()


def test_curves_are_those_of_coco() -> None:
    images = random_images(60, 3)
    curves = curves_of_classes(images, [judge(one) for one in images], 3)
    ours = [interpolated(curve, np.linspace(0, 1, 101)).mean() for curve in curves]
    assert ours == pytest.approx(coco_average_precision(images, 3), abs=1e-9)
    assert 0.1 < min(ours) < max(ours) < 0.9


def test_every_kind_of_error_is_told() -> None:
    truths = [(0, [0, 0, 10, 10]), (1, [50, 50, 60, 60])]
    detections = [
        (0, 0.9, [0, 0, 10, 9]),
        (0, 0.8, [0, 0, 10, 10]),
        (1, 0.7, [0, 1, 10, 10]),
        (1, 0.6, [55, 50, 65, 60]),
        (0, 0.5, [80, 80, 90, 90]),
        (0, 0.4, [102, 102, 110, 110]),
        (1, 0.3, [50, 50, 60, 61]),
    ]
    judged = judge(found(truths, detections, crowds=[(0, [100, 100, 140, 140])]))
    kinds = [KINDS[kind] for kind in judged.kinds]
    assert kinds == ["correct", "duplicate", "class", "localization", "background", "ignored", "correct"]
    assert judged.truths.tolist() == [0, -1, -1, -1, -1, -1, 1]


def test_confusions_are_counted_where_they_are() -> None:
    truths = [(0, [0, 0, 10, 10]), (1, [50, 50, 60, 60]), (2, [80, 0, 90, 10])]
    detections = [(1, 0.9, [0, 0, 10, 9]), (1, 0.8, [50, 50, 60, 60]), (0, 0.7, [30, 30, 40, 40])]
    matrix = confusion_matrix([found(truths, detections), found([], [])], 3)
    assert matrix.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_an_object_goes_to_a_detection_of_its_own_class() -> None:
    """Two objects in one place: which is which is told by the class."""
    truths = [(0, [0, 0, 10, 10]), (1, [0, 0, 10, 10.5])]
    matrix = confusion_matrix([found(truths, [(1, 0.9, [0, 0, 10, 10]), (0, 0.8, [0, 0, 10, 10])])], 2)
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_the_best_threshold_parts_right_from_wrong() -> None:
    truths = [(0, [0, 0, 10, 10]), (0, [50, 50, 60, 60])]
    detections = [(0, 0.9, [0, 0, 10, 10]), (0, 0.6, [50, 50, 60, 60]), (0, 0.4, [80, 80, 90, 90])]
    image = found(truths, detections)
    (curve, other) = curves_of_classes([image], [judge(image)], 2)
    assert curve.best == 1
    assert curve.scores[curve.best] == 0.6
    assert (curve.f1_at(0.5), curve.f1_at(0.3), curve.f1_at(0.95)) == pytest.approx((1.0, 0.8, 0.0))
    assert other.best is None
    assert 0.4 < best_threshold([curve, other]) <= 0.6
    assert best_threshold([other]) == 0.5


def test_images_without_anything_are_no_trouble() -> None:
    nothing = found([], [])
    assert judge(nothing).kinds.tolist() == []
    assert curves_of_classes([nothing], [judge(nothing)], 2)[0].objects == 0
    assert confusion_matrix([nothing], 2).sum() == 0
    assert judge(found([], [(0, 0.5, [0, 0, 1, 1])])).kinds.tolist() == [KINDS.index("background")]
    assert judge(found([(0, [0, 0, 1, 1])], [])).kinds.tolist() == []
