"""Error analysis, compared with pycocotools and with results computed by hand."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deim.analysis import (
    OUTCOMES,
    ImageResult,
    confusion_matrix,
    keypoint_errors,
    match_detections,
    precision_recall_curves,
)
from deim.analysis.curves import best_threshold
from deim.visualization.analysis import confusion_figure, interpolate_precision
from deim.visualization.figures import save


def image_result(objects: list, detections: list, crowds: list = ()) -> ImageResult:
    """Build a result from objects and crowds (class, box), and detections (class, score, box), best first."""
    return ImageResult(
        "image.jpg",
        np.array([box for _, box in objects], float).reshape(-1, 4),
        np.array([label for label, _ in objects], int),
        np.array([box for _, box in crowds], float).reshape(-1, 4),
        np.array([label for label, _ in crowds], int),
        np.array([box for *_, box in detections], float).reshape(-1, 4),
        np.array([score for _, score, _ in detections], float),
        np.array([label for label, *_ in detections], int),
    )


def random_images(count: int, classes: int) -> list[ImageResult]:
    """Return results with random objects, detections near most objects (near some twice), and crowds."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        objects = [(int(rng.integers(classes)), _box(rng)) for _ in range(rng.integers(0, 6))]
        crowds = [(int(rng.integers(classes)), _box(rng) * 2) for _ in range(rng.integers(0, 2))]
        detections = []
        for label, box in objects * 2:
            if rng.random() < 0.7:
                label_of_detection = label if rng.random() < 0.8 else int(rng.integers(classes))
                shifted = box + rng.normal(0, 4, 4)
                shifted[2:] = np.maximum(shifted[2:], shifted[:2] + 1)
                detections.append((label_of_detection, rng.random(), shifted))
        detections += [(int(rng.integers(classes)), rng.random(), _box(rng)) for _ in range(rng.integers(0, 5))]
        images.append(image_result(objects, sorted(detections, key=lambda detection: -detection[1]), crowds))
    return images


def _box(rng: np.random.Generator) -> np.ndarray:
    corner, side = rng.uniform(0, 60, 2), rng.uniform(10, 40, 2)
    return np.concatenate([corner, corner + side])


def with_keypoints(images: list[ImageResult]) -> list[ImageResult]:
    """Return the results with three keypoints in every box, which are compared by their similarity."""
    rng = np.random.default_rng(1)

    def points(boxes: np.ndarray, values: np.ndarray) -> np.ndarray:
        corners = boxes.reshape(-1, 2, 2)
        positions = np.stack([corners[:, 0], corners.mean(axis=1), corners[:, 1]], axis=1)
        return np.concatenate([positions, values[..., None]], axis=2)

    return [
        replace(
            image,
            crowd_boxes=np.zeros((0, 4)),
            crowd_classes=np.zeros(0, int),
            keypoints=points(image.boxes, np.repeat(image.scores[:, None], 3, axis=1)),
            gt_keypoints=points(image.gt_boxes, np.maximum(rng.integers(0, 3, (len(image.gt_boxes), 3)), [2, 0, 0])),
            gt_areas=(image.gt_boxes[:, 2:] - image.gt_boxes[:, :2]).prod(axis=1) * 0.6,
            oks_sigmas=SIGMAS,
        )
        for image in images
    ]


SIGMAS = [0.2, 0.1, 0.15]


def coco_average_precision(images: list[ImageResult], classes: int, task: str = "bbox") -> list[float]:
    """Return the AP at IoU or OKS 0.5 of each class, computed by pycocotools."""
    annotations, results = [], []
    for number, result in enumerate(images):
        groups = ((result.gt_boxes, result.gt_classes, 0), (result.crowd_boxes, result.crowd_classes, 1))
        for boxes, labels, crowd in groups:
            for box, label in zip(boxes, labels, strict=True):
                width, height = box[2:] - box[:2]
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": int(label), "iscrowd": crowd,
                                    "bbox": [*box[:2], width, height], "area": width * height})  # fmt: skip
        for box, score, label in zip(result.boxes, result.scores, result.classes, strict=True):
            row = {
                "image_id": number,
                "category_id": int(label),
                "score": score,
                "bbox": [*box[:2], *(box[2:] - box[:2])],
            }
            results.append(row)
        if result.gt_keypoints is not None:
            for annotation, points, size in zip(
                annotations[-len(result.gt_boxes) :], result.gt_keypoints, result.gt_areas, strict=False
            ):
                annotation |= {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
                annotation["area"] = size
            for row, points in zip(results[-len(result.boxes) :], result.keypoints, strict=False):
                row["keypoints"] = points.ravel().tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = {"images": [{"id": n} for n in range(len(images))], "annotations": annotations,
                         "categories": [{"id": n, "name": str(n)} for n in range(classes)]}  # fmt: skip
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), task)
        evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, :, 0, -1].mean(axis=0).tolist()


def test_precision_recall_curves_match_coco() -> None:
    images = random_images(60, 3)
    curves = precision_recall_curves(images, [match_detections(image) for image in images], 3)
    ours = [interpolate_precision(curve, np.linspace(0, 1, 101)).mean() for curve in curves]
    assert ours == pytest.approx(coco_average_precision(images, 3), abs=1e-9)
    assert 0.1 < min(ours) < max(ours) < 0.9


def test_precision_recall_curves_of_keypoints_match_coco() -> None:
    images = with_keypoints(random_images(60, 3))
    curves = precision_recall_curves(images, [match_detections(image) for image in images], 3)
    ours = [interpolate_precision(curve, np.linspace(0, 1, 101)).mean() for curve in curves]
    assert ours == pytest.approx(coco_average_precision(images, 3, "keypoints"), abs=1e-9)
    assert 0.1 < min(ours) < max(ours) < 0.9


def test_keypoint_errors() -> None:
    """Distances of correct detections from labeled keypoints; other detections and keypoints do not count."""
    boxes = np.array([[0.0, 0, 40, 10], [50, 50, 60, 60], [80, 80, 90, 90]])  # sizes 20, 10, 10
    result = image_result(
        [(0, boxes[0]), (0, boxes[1]), (0, boxes[2])],
        [(0, 0.9, boxes[1]), (0, 0.8, boxes[0]), (0, 0.7, boxes[0]), (0, 0.6, [200, 200, 210, 210])],
    )
    target = np.array([[[5, 5, 2], [9, 9, 1]], [[55, 55, 1], [0, 0, 0]], [[85, 85, 2], [86, 86, 2]]], float)
    points = np.zeros((4, 2, 3))
    points[0, 0, :2], points[1, :, :2] = [55, 58], [[5, 6], [9, 9]]
    result = replace(result, keypoints=points, gt_keypoints=target)
    empty = replace(image_result([], []), keypoints=np.zeros((0, 2, 3)), gt_keypoints=np.zeros((0, 2, 3)))
    errors = keypoint_errors([result, empty], [match_detections(result), match_detections(empty)])
    assert errors.counts.tolist() == [2, 1]
    assert errors.pixels.tolist() == [2, 0]  # 3 and 1 pixels; 0 pixels
    assert errors.relative.tolist() == pytest.approx([(0.3 + 0.05) / 2, 0])
    assert errors.found.tolist() == [0.5, 1]
    missing = keypoint_errors([empty], [match_detections(empty)])
    assert np.isnan([missing.pixels, missing.relative, missing.found]).all()
    assert keypoint_errors([image_result([], [])], [match_detections(empty)]) is None


def test_error_types() -> None:
    objects = [(0, [0, 0, 10, 10]), (1, [50, 50, 60, 60])]
    detections = [
        (0, 0.9, [0, 0, 10, 9]),
        (0, 0.8, [0, 0, 10, 10]),
        (1, 0.7, [0, 1, 10, 10]),
        (1, 0.6, [55, 50, 65, 60]),
        (0, 0.5, [80, 80, 90, 90]),
        (0, 0.4, [102, 102, 110, 110]),
        (1, 0.3, [50, 50, 60, 61]),
    ]
    match = match_detections(image_result(objects, detections, crowds=[(0, [100, 100, 140, 140])]))
    outcomes = [OUTCOMES[outcome] for outcome in match.outcomes]
    assert outcomes == ["correct", "duplicate", "class", "localization", "background", "ignored", "correct"]
    assert match.gt_indices.tolist() == [0, -1, -1, -1, -1, -1, 1]


def test_confusion_matrix() -> None:
    objects = [(0, [0, 0, 10, 10]), (1, [50, 50, 60, 60]), (2, [80, 0, 90, 10])]
    detections = [(1, 0.9, [0, 0, 10, 9]), (1, 0.8, [50, 50, 60, 60]), (0, 0.7, [30, 30, 40, 40])]
    matrix = confusion_matrix([image_result(objects, detections), image_result([], [])], 3)
    assert matrix.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_confusion_matrix_prefers_detections_of_same_class() -> None:
    """Two objects have the same box and differ in class only."""
    objects = [(0, [0, 0, 10, 10]), (1, [0, 0, 10, 10.5])]
    matrix = confusion_matrix([image_result(objects, [(1, 0.9, [0, 0, 10, 10]), (0, 0.8, [0, 0, 10, 10])])], 2)
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_confusion_figure_of_many_classes_keeps_fractions_of_all_classes() -> None:
    """Objects of class 0 are also detected as each of 44 other classes, of which the figure shows 39."""
    matrix = np.diag([8] * 45 + [0])
    matrix[0, 1:45] = 2
    shown = confusion_figure(matrix, [f"class {index}" for index in range(45)]).axes[0].images[0].get_array()
    assert shown.shape == (41, 41)
    assert shown[0].sum() == pytest.approx((8 + 39 * 2) / (8 + 44 * 2))


def test_figures_are_written_to_the_given_path(tmp_path: Path) -> None:
    for name in ("curves", "curves.unknown", "curves.png"):
        save(Figure(), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    save(Figure(), tmp_path / "curves.svg")
    assert b"<svg" in (tmp_path / "curves.svg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_best_threshold_separates_correct_detections() -> None:
    objects = [(0, [0, 0, 10, 10]), (0, [50, 50, 60, 60])]
    detections = [(0, 0.9, [0, 0, 10, 10]), (0, 0.6, [50, 50, 60, 60]), (0, 0.4, [80, 80, 90, 90])]
    image = image_result(objects, detections)
    (curve, curve_without_objects) = precision_recall_curves([image], [match_detections(image)], 2)
    assert curve.best_index == 1
    assert curve.scores[curve.best_index] == 0.6
    assert (curve.f1_at(0.5), curve.f1_at(0.3), curve.f1_at(0.95)) == pytest.approx((1.0, 0.8, 0.0))
    assert curve_without_objects.best_index is None
    assert 0.4 < best_threshold([curve, curve_without_objects]) <= 0.6
    assert best_threshold([curve_without_objects]) == 0.5


def test_empty_images() -> None:
    empty_image = image_result([], [])
    assert match_detections(empty_image).outcomes.tolist() == []
    assert precision_recall_curves([empty_image], [match_detections(empty_image)], 2)[0].num_objects == 0
    assert confusion_matrix([empty_image], 2).sum() == 0
    assert match_detections(image_result([], [(0, 0.5, [0, 0, 1, 1])])).outcomes.tolist() == [
        OUTCOMES.index("background")
    ]
    assert match_detections(image_result([(0, [0, 0, 1, 1])], [])).outcomes.tolist() == []
