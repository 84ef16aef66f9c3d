"""Errors in the masks and keypoints of annotations."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_masks

from deim.data.datasets.regions import compress_runs
from deim.data.records import record_size

# Number of records whose annotations are checked together: numbers in one array take far less time than in many.
_CHUNK = 1000


class AnnotationError(NamedTuple):
    """Error in an annotation.

    Attributes:
        record: index of the record.
        number: index of the annotation in the record.
        message: description of the error.
        is_fatal: whether the error prevents training; otherwise training leaves the object out.
    """

    record: int
    number: int
    message: str
    is_fatal: bool


def find_mask_errors(records: Sequence[dict]) -> Iterator[AnnotationError]:
    """Yield errors in masks: missing or malformed ones, of another size than the image, without area, or outside of it.

    Crowds are not checked: they are not trained on. Polygons that intersect themselves, reach over the border of the
    image, or are smaller than a pixel are valid.

    Args:
        records: detectron2 records.
    """
    for start in range(0, len(records), _CHUNK):
        outlines: list[tuple[int, int]] = []
        errors: list[AnnotationError] = []
        for index in range(start, min(start + _CHUNK, len(records))):
            record = records[index]
            for number, annotation in enumerate(record.get("annotations", ())):
                if annotation.get("iscrowd", 0):
                    continue
                segmentation = annotation.get("segmentation")
                if isinstance(segmentation, dict) and segmentation:
                    error = _run_length_error(segmentation, record_size(record))
                else:
                    error = _structure_error(segmentation)
                    if error is None:
                        outlines.append((index, number))
                if error is not None:
                    errors.append(AnnotationError(index, number, *error))
        yield from sorted([*errors, *_outline_errors(records, outlines)])


def _structure_error(segmentation: Any) -> tuple[str, bool] | None:
    """Return message and severity if a segmentation is not a list of polygons with at least three points each."""
    if segmentation is None or (isinstance(segmentation, list | dict) and not segmentation):
        return "the object has no mask", True
    if not isinstance(segmentation, list) or not all(
        isinstance(polygon, list | np.ndarray) for polygon in segmentation
    ):
        return "the segmentation is neither a list of polygons nor a run-length encoding", True
    is_polygon = [len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation]
    if not any(is_polygon):
        return "the mask has no polygon with at least three points", False
    if not all(is_polygon):
        length = len(segmentation[is_polygon.index(False)])
        return f"a polygon of the mask has {length} numbers; expected an even number from 6", True
    return None


def _outline_errors(records: Sequence[dict], objects: Sequence[tuple[int, int]]) -> Iterator[AnnotationError]:
    """Yield errors in the polygons of objects, given as (index of the record, index of the annotation)."""
    if not objects:
        return
    segmentations = [records[index]["annotations"][number]["segmentation"] for index, number in objects]
    polygons = list(chain.from_iterable(segmentations))
    lengths = np.array([len(polygon) for polygon in polygons])
    try:
        values = np.fromiter(chain.from_iterable(polygons), np.float64, int(lengths.sum()))
    except (TypeError, ValueError):
        for part in (objects[: len(objects) // 2], objects[len(objects) // 2 :]) if len(objects) > 1 else ():
            yield from _outline_errors(records, part)
        if len(objects) == 1:
            yield AnnotationError(*objects[0], "a polygon of the mask contains a value that is not a number", True)
        return
    points = values.reshape(-1, 2)
    polygon_starts = np.cumsum(lengths // 2) - lengths // 2
    counts = np.array([len(segmentation) for segmentation in segmentations])
    object_starts = np.cumsum(counts) - counts
    low, high = np.minimum.reduceat(points, polygon_starts), np.maximum.reduceat(points, polygon_starts)
    has_area = np.logical_or.reduceat((high > low).all(axis=1), object_starts)
    low, high = np.minimum.reduceat(low, object_starts), np.maximum.reduceat(high, object_starts)
    sizes = np.array([(record_size(records[index]) or (np.inf, np.inf))[::-1] for index, _ in objects])
    # NaN is kept by minimum and maximum.
    is_finite = np.all(np.isfinite(low) & np.isfinite(high), axis=1)
    is_outside = np.any((high <= 0) | (low >= sizes), axis=1)
    for position in np.flatnonzero(~is_finite | ~has_area | is_outside).tolist():
        index, number = objects[position]
        if not is_finite[position]:
            yield AnnotationError(index, number, "the mask contains NaN/Inf", True)
        elif not has_area[position]:
            yield AnnotationError(index, number, "the mask has no area", False)
        else:
            size = f"{records[index].get('width')} x {records[index].get('height')}"
            yield AnnotationError(index, number, f"the mask is outside of the image ({size})", False)


def _run_length_error(segmentation: dict, size: tuple[int, int] | None) -> tuple[str, bool] | None:
    """Return message and severity if a run-length encoding is malformed, empty, or of another size than the image."""
    try:
        runs = compress_runs(segmentation)
        if size is not None and tuple(runs["size"]) != size:
            height, width = runs["size"]
            return f"the mask is {width} x {height} pixels large, the image {size[1]} x {size[0]}", True
    except (ValueError, TypeError, OverflowError) as error:
        return f"the mask is malformed: {error}", True
    return None if coco_masks.area(runs) else ("the mask has no area", False)


def find_keypoint_errors(records: Sequence[dict], num_keypoints: int) -> Iterator[AnnotationError]:
    """Yield errors in keypoints: a wrong number of values, NaN/Inf, or a visibility other than 0, 1 and 2.

    Crowds are not checked: they are not trained on. Objects without visible keypoints and keypoints outside of the image
    are valid.

    Args:
        records: detectron2 records; an annotation has ``keypoints``, or no keypoints at all.
        num_keypoints: number of keypoints of an object.
    """
    expected = 3 * num_keypoints
    for index, record in enumerate(records):
        for number, annotation in enumerate(record.get("annotations", ())):
            values = annotation.get("keypoints")
            if annotation.get("iscrowd", 0) or values is None:
                continue
            if not isinstance(values, list | np.ndarray) or len(values) != expected:
                length = len(values) if isinstance(values, list | np.ndarray) else repr(values)
                message = f"keypoints: {length} values; expected {expected} (x, y and visibility of {num_keypoints})"
                yield AnnotationError(index, number, message, True)
                continue
            error = _keypoint_error(values)
            if error is not None:
                yield AnnotationError(index, number, f"keypoints: {error}", True)


def _keypoint_error(values: Any) -> str | None:
    try:
        points = np.array(values, dtype=np.float64).reshape(-1, 3)
    except (TypeError, ValueError):
        return "a value is not a number"
    if not np.isfinite(points).all():
        return "a value is NaN/Inf"
    unknown = set(points[:, 2].tolist()) - {0.0, 1.0, 2.0}
    if unknown:
        return f"the visibility {min(unknown):g} is not 0 (not labeled), 1 (hidden) or 2 (visible)"
    return None
