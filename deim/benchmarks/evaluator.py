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

from deim.benchmarks.timing import report

CATEGORIES = 80


def annotations(images: int, objects: int) -> dict[str, list[dict]]:
    """Return a random dataset in COCO format.

    Args:
        images: number of images.
        objects: number of objects per image.
    """
    random = np.random.default_rng(0)
    boxes = _boxes(random, images * objects)
    found = [
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
        "annotations": found,
    }


def detections(dataset: dict[str, list[dict]], per_image: int) -> list[dict]:
    """Return ``per_image`` detections for each image: its objects with perturbed boxes, then random boxes."""
    random = np.random.default_rng(1)
    found: list[dict] = []
    objects: dict[int, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for one in dataset["annotations"]:
        objects[one["image_id"]].append(one)
    for image, own in objects.items():
        for one in own[:per_image]:
            box = (np.array(one["bbox"]) * random.uniform(0.9, 1.1, 4)).tolist()
            found.append(_detection(image, one["category_id"], box, random.uniform(0.3, 1)))
        for box in _boxes(random, per_image - len(own)):
            found.append(_detection(image, int(random.integers(CATEGORIES)) + 1, box, random.uniform(0, 0.5)))
    return found


def _boxes(random: np.random.Generator, count: int) -> list[list[float]]:
    corners, sides = random.uniform(0, 400, (count, 2)), random.uniform(5, 200, (count, 2))
    return np.concatenate([corners, sides], axis=1).tolist()


def _detection(image: int, category: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": float(score)}


def evaluate(dataset: Any, found: list[dict], api: Any, evaluation: Any) -> tuple[float, np.ndarray]:
    """Return the seconds from a list of detections to the metrics, and the 12 metrics."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = api()
        truth.dataset = dataset
        truth.createIndex()
        start = time.perf_counter()
        one = evaluation(truth, truth.loadRes(found), "bbox")
        one.evaluate()
        one.accumulate()
        one.summarize()
    return time.perf_counter() - start, np.array(one.stats[:12])


def run(images: int, per_image: int, path: str | None) -> None:
    """Print the times of both backends of ``COCOEvaluator``, and the largest difference of their metrics."""
    dataset = annotations(images, 7)
    found = detections(dataset, per_image)
    slow, expected = evaluate(dataset, [dict(one) for one in found], COCO, COCOeval)
    fast, numbers = evaluate(dataset, [dict(one) for one in found], FastCOCO, COCOeval_faster)
    rows = [{"evaluation": "pycocotools", "s": slow, "ratio": 1.0, "AP": 100 * expected[0]}]
    rows.append({"evaluation": "faster-coco-eval", "s": fast, "ratio": slow / fast, "AP": 100 * numbers[0]})
    report(rows, path, torch.device("cpu"))
    print(f"largest difference of the twelve metrics: {float(np.abs(numbers - expected).max()):.1e}")
