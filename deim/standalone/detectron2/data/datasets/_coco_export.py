"""Export of registered datasets to COCO annotation files."""

import datetime
import json
import logging
import os
from typing import Any

import numpy as np
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import file_lock
from pycocotools import mask as rle

__all__ = ["convert_to_coco_json"]

logger = logging.getLogger("detectron2.data.datasets.coco")

_CACHED = (
    "Using previously cached COCO format annotations at '{}'. "
    "You need to clear the cache file if your dataset has been modified."
)


def convert_to_coco_json(dataset_name, output_file, allow_cached=True):
    """Write a registered dataset as an annotation file in COCO format.

    Args:
        dataset_name: name of the dataset.
        output_file: path of the file.
        allow_cached: whether to keep an existing file.

    Raises:
        NotImplementedError: if a box is rotated.
        TypeError: if a segmentation is neither polygons nor a run-length encoding.
        ValueError: if a box does not have 4 numbers.
    """
    folder = os.path.dirname(output_file)
    PathManager.mkdirs(folder)
    with file_lock(output_file):
        is_cached = allow_cached and PathManager.exists(output_file)
        if is_cached:
            logger.warning(_CACHED.format(output_file))
            return
        logger.info(f"Converting annotations of dataset '{dataset_name}' to COCO format ...")
        content = _as_coco(DatasetCatalog.get(dataset_name), MetadataCatalog.get(dataset_name))
        logger.info(f"Caching COCO format annotations at '{output_file}' ...")
        with PathManager.open(output_file + ".tmp", "w") as f:
            json.dump(content, f)
        os.replace(output_file + ".tmp", output_file)


def _as_coco(records: list[dict], metadata) -> dict:
    category_of = {index: number for number, index in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    is_mapped = metadata.get("thing_dataset_id_to_contiguous_id") is not None

    def category(index: int) -> int:
        return category_of[index] if is_mapped else index

    categories = [{"id": category(index), "name": name} for index, name in enumerate(metadata.thing_classes)]
    images: list[dict] = []
    annotations: list[dict] = []
    for number, record in enumerate(records):
        image_id = record.get("image_id", number)
        size = {"width": int(record["width"]), "height": int(record["height"])}
        images.append({"id": image_id, **size, "file_name": str(record["file_name"])})
        for instance in record.get("annotations", []):
            common = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(common | _as_annotation(instance, int(category(instance["category_id"]))))
    info = {"date_created": str(datetime.datetime.now()), "description": "Written for evaluation by the COCO API."}
    content = {"info": info, "images": images, "categories": categories, "licenses": None}
    return content | ({"annotations": annotations} if annotations else {})


def _as_annotation(instance: dict, category: int) -> dict[str, Any]:
    box = _as_xywh(instance["bbox"], instance["bbox_mode"])
    annotation = {
        "bbox": [round(float(value), 3) for value in box],
        "area": _area(instance, box),
        "iscrowd": int(instance.get("iscrowd", 0)),
        "category_id": category,
    }
    if "keypoints" in instance:
        points = [v if i % 3 == 2 else v - 0.5 for i, v in enumerate(instance["keypoints"])]
        annotation["keypoints"] = points
        annotation["num_keypoints"] = instance.get("num_keypoints", sum(v > 0 for v in points[2::3]))
    if "segmentation" in instance:
        annotation["segmentation"] = _as_json(instance["segmentation"])
    return annotation


def _as_xywh(box, mode: BoxMode) -> list:
    if isinstance(box, np.ndarray):
        if box.ndim != 1:
            raise ValueError(f"bbox has to be 1-dimensional. Got shape={box.shape}.")
        box = box.tolist()
    if len(box) == 5:
        raise NotImplementedError(
            f"The bundled subset of detectron2 does not write the rotated box {box}; install detectron2."
        )
    if len(box) != 4:
        raise ValueError(f"bbox has to have length 4. Got {box}.")
    return BoxMode.convert(box, mode, BoxMode.XYWH_ABS)


def _area(instance: dict, box: list) -> float:
    """Return the area of the mask, or of the box (XYWH) if there is no mask."""
    if "segmentation" not in instance:
        return Boxes([BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)]).area().item()
    segmentation = instance["segmentation"]
    if isinstance(segmentation, dict):
        return float(rle.area(segmentation))
    if not isinstance(segmentation, list):
        raise TypeError(f"Unknown segmentation type {type(segmentation)}!")
    return float(sum(_polygon_area(np.asarray(polygon, np.float64).reshape(-1, 2)) for polygon in segmentation))


def _polygon_area(points: np.ndarray) -> float:
    """Return the area of a polygon of shape (N, 2) by the shoelace formula."""
    following = np.roll(points, -1, axis=0)
    return abs(float(np.sum(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]))) / 2


def _as_json(segmentation: list | dict) -> list | dict:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        return segmentation | {"counts": segmentation["counts"].decode("ascii")}
    return segmentation
