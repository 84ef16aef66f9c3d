"""Time of COCO evaluation."""

import contextlib
import io
import time
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO as FastCOCO
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deim.measurement.timing import print_report

CATEGORIES = 80


def random_dataset(images: int, objects: int) -> dict[str, list[dict]]:
    """Return a random dataset in COCO format.

    Args:
        images: number of images.
        objects: number of objects per image.
    """
    random = np.random.default_rng(0)
    boxes = _boxes(random, images * objects)
    annotations = [
        {
            "id": number + 1,
            "image_id": number // objects + 1,
            "category_id": int(random.integers(CATEGORIES)) + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, box in enumerate(boxes)
    ]
    return {
        "images": [{"id": number + 1, "height": 480, "width": 640} for number in range(images)],
        "categories": [{"id": number + 1, "name": str(number + 1)} for number in range(CATEGORIES)],
        "annotations": annotations,
    }


def random_detections(dataset: dict[str, list[dict]], per_image: int) -> list[dict]:
    """Return ``per_image`` detections for each image: its objects with perturbed boxes, then random boxes."""
    random = np.random.default_rng(1)
    detections: list[dict] = []
    objects: dict[int, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    for image, image_annotations in objects.items():
        for annotation in image_annotations[:per_image]:
            box = (np.array(annotation["bbox"]) * random.uniform(0.9, 1.1, 4)).tolist()
            detections.append(_detection(image, annotation["category_id"], box, random.uniform(0.3, 1)))
        for box in _boxes(random, max(per_image - len(image_annotations), 0)):
            detections.append(_detection(image, int(random.integers(CATEGORIES)) + 1, box, random.uniform(0, 0.5)))
    return detections


def _boxes(random: np.random.Generator, count: int) -> list[list[float]]:
    corners, sides = random.uniform(0, 400, (count, 2)), random.uniform(5, 200, (count, 2))
    return np.concatenate([corners, sides], axis=1).tolist()


def _detection(image: int, category: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": float(score)}


def evaluate(dataset: Any, detections: list[dict], api: Any, evaluation: Any) -> tuple[float, np.ndarray]:
    """Return the seconds from a list of detections to the metrics, and the 12 metrics."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = api()
        ground_truth.dataset = dataset
        ground_truth.createIndex()
        start = time.perf_counter()
        evaluator = evaluation(ground_truth, ground_truth.loadRes(detections), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return time.perf_counter() - start, np.array(evaluator.stats[:12])


def run(images: int, per_image: int, path: str | None) -> None:
    """Print the times of both backends of ``COCOEvaluator``, and the largest difference of their metrics."""
    dataset = random_dataset(images, 7)
    detections = random_detections(dataset, per_image)
    pycocotools_seconds, pycocotools_metrics = evaluate(
        dataset, [dict(detection) for detection in detections], COCO, COCOeval
    )
    faster_seconds, metrics = evaluate(
        dataset, [dict(detection) for detection in detections], FastCOCO, COCOeval_faster
    )
    rows = [{"evaluation": "pycocotools", "s": pycocotools_seconds, "speedup": 1.0, "AP": 100 * pycocotools_metrics[0]}]
    rows.append(
        {
            "evaluation": "faster-coco-eval",
            "s": faster_seconds,
            "speedup": pycocotools_seconds / faster_seconds,
            "AP": 100 * metrics[0],
        }
    )
    print_report(rows, path, torch.device("cpu"))
    print(f"largest difference of the twelve metrics: {float(np.abs(metrics - pycocotools_metrics).max()):.1e}")
