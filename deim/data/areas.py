"""Areas of objects."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from deim.data.datasets.regions import compress_runs, polygon_area
from deim.data.records import annotation_arrays, stored_field, training_annotations


def annotation_areas(record: dict) -> np.ndarray:
    """Return the (N,) areas of the training objects of a record in square pixels, the objects of
    :func:`deim.data.records.annotation_arrays`.

    The area is ``area`` of the annotation or, without a usable one, that of its mask or else of its box.
    """
    annotations, _ = training_annotations(record)
    boxes, _ = annotation_arrays(record)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).astype(np.float64)
    for index, annotation in enumerate(annotations):
        area = annotation.get("area")
        if not isinstance(area, int | float) or not math.isfinite(area) or area <= 0:
            area = _mask_area(annotation.get("segmentation"))
        if area > 0:
            areas[index] = area
    return areas


def annotation_area_ratios(record: dict) -> np.ndarray:
    """Return the (N,) float32 areas of :func:`annotation_areas`, as fractions of the areas of the boxes.

    Raises:
        ConfigError: if the record was stored without areas.
    """
    if "annotations" not in record and "boxes" in record:
        return stored_field(record, "area_ratios")
    boxes, _ = annotation_arrays(record)
    return (annotation_areas(record) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).astype(np.float32)


def _mask_area(segmentation: Any) -> float:
    """Return the area of a mask. For polygons it is the sum of their areas, as in COCO's files.

    The area is 0 without a mask. It is also 0 for malformed masks, which recipes of keypoints do not report.
    """
    try:
        if isinstance(segmentation, Mapping):
            return float(coco_masks.area(compress_runs(dict(segmentation))))
        return sum(polygon_area(np.reshape(polygon, (-1, 2)).astype(np.float64)) for polygon in segmentation or ())
    except (TypeError, ValueError):
        return 0.0
