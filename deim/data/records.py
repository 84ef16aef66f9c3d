"""Compact storage of dataset annotations in a few arrays."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from detectron2.data.common import DatasetFromList
from detectron2.structures import BoxMode


def record_size(record: dict) -> tuple[int, int] | None:
    """Return the (height, width) stored in a record; None if the record has no size."""
    if record.get("height") and record.get("width"):
        return int(record["height"]), int(record["width"])
    return None


def annotation_arrays(record: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the training objects of a record: boxes (N, 4) float32 XYXY in pixels and classes (N,) int64.

    As in the official loaders, crowds are dropped, boxes are clipped to the image if its size is known, and boxes
    without area after clipping are dropped. Records of :class:`CompactRecords` already contain these arrays.
    """
    if "annotations" not in record:
        return record.get("boxes", np.zeros((0, 4), np.float32)), record.get("classes", np.zeros(0, np.int64))
    annotations = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    boxes = annotation_boxes(annotations)
    classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
    size = record_size(record)
    if size is not None:
        boxes = boxes.clip(0, np.array(size[::-1] * 2))
    boxes = boxes.astype(np.float32)  # before the area check: a short side may become zero in float32
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[has_area], classes[has_area]


def annotation_boxes(annotations: Sequence[dict]) -> np.ndarray:
    """Return the boxes of detectron2 annotations, (N, 4) float64 XYXY."""
    if not annotations:
        return np.zeros((0, 4))
    modes = {a["bbox_mode"] for a in annotations}
    if modes <= {BoxMode.XYWH_ABS, BoxMode.XYXY_ABS}:
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64)
        is_xywh = np.array([a["bbox_mode"] == BoxMode.XYWH_ABS for a in annotations])
        boxes[is_xywh, 2:] += boxes[is_xywh, :2]
        return boxes
    return np.array([BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations])


class Records(Protocol):
    """A dataset that supports indexing."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


class CompactRecords:
    """detectron2 records whose objects are stored in three arrays, shared by all worker processes.

    Reading a Python object writes its reference count, which copies its memory page into the worker (copy-on-write).
    With a list of dicts, every worker ends up with a copy of all annotations; reading arrays copies nothing. All other
    fields of the records are stored in detectron2's serialized list.

    A record has ``boxes`` (N, 4) float32 XYXY and ``classes`` (N,) int64 instead of ``annotations``; see
    :func:`annotation_arrays`.
    """

    def __init__(self, records: Sequence[dict]):
        objects = [annotation_arrays(record) for record in records]
        self._ends = np.cumsum([len(boxes) for boxes, _ in objects])
        self._boxes = np.concatenate([boxes for boxes, _ in objects])
        self._classes = np.concatenate([classes for _, classes in objects])
        other_fields = (
            {k: v for k, v in record.items() if k not in ("annotations", "boxes", "classes")} for record in records
        )
        self._others = DatasetFromList(list(other_fields), copy=False)

    @property
    def objects_per_image(self) -> np.ndarray:
        """(N,) number of objects in each record."""
        return np.diff(self._ends, prepend=0)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]  # a negative index counts from the end
        start, end = self._ends[index - 1] if index > 0 else 0, self._ends[index]
        return {**self._others[index], "boxes": self._boxes[start:end], "classes": self._classes[start:end]}
