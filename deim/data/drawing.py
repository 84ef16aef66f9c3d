"""Masks and keypoints of records, for drawing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from deim.data.datasets.annotation_errors import find_keypoint_errors, find_mask_errors
from deim.data.datasets.keypoints import KeypointDefinition
from deim.data.datasets.regions import compress_runs
from deim.data.records import annotation_arrays


def object_shapes(record: dict, definition: KeypointDefinition | None) -> tuple[list[Any], np.ndarray | None]:
    """Return masks and keypoints of the objects of a record, in the order of :func:`deim.data.records.annotation_arrays`.

    Malformed masks and keypoints are omitted.

    Args:
        record: a detectron2 record.
        definition: the keypoints of the dataset; None if they are not read.

    Returns:
        for each object, polygons ``[x0, y0, x1, y1, ...]``, a compressed run-length encoding, or None; keypoints
        (N, P, 3), or None without a definition.
    """
    annotations = [a for a in record.get("annotations", ()) if len(annotation_arrays(record | {"annotations": [a]})[0])]
    kept = record | {"annotations": annotations}
    invalid_masks = {error.number for error in find_mask_errors([kept])}
    masks = [
        None if number in invalid_masks else _drawable_mask(annotation["segmentation"])
        for number, annotation in enumerate(annotations)
    ]
    if definition is None:
        return masks, None
    points = np.zeros((len(annotations), len(definition.names), 3))
    invalid_keypoints = {error.number for error in find_keypoint_errors([kept], len(definition.names))}
    for number, annotation in enumerate(annotations):
        if number not in invalid_keypoints and annotation.get("keypoints"):
            points[number] = np.array(annotation["keypoints"]).reshape(-1, 3)
    return masks, points


def _drawable_mask(segmentation: Any) -> Any:
    """Return the mask in a form for :func:`decode_mask` that needs little memory."""
    return compress_runs(segmentation) if isinstance(segmentation, dict) else segmentation


def decode_mask(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a mask as an array (H, W) bool.

    Args:
        mask: a compressed run-length encoding, polygons ``[x0, y0, x1, y1, ...]``, or an array (H, W).
        size: (height, width) of the image.
    """
    if isinstance(mask, np.ndarray):
        return mask > 0
    encoded = mask if isinstance(mask, Mapping) else coco_masks.merge(coco_masks.frPyObjects(mask, *size))
    return coco_masks.decode(encoded) > 0
