"""Compact storage of dataset annotations in a few arrays."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from detectron2.data.common import DatasetFromList
from detectron2.structures import BoxMode

from deim.data.keypoints import keypoint_array
from deim.data.masks import MaskArrays, mask_arrays
from deim.errors import ConfigError

# Keys of the objects in a record: annotations, or the arrays of CompactRecords.
OBJECT_KEYS = frozenset({"annotations", "boxes", "classes", "mask_arrays", "keypoint_array", "area_ratios"})


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
    boxes, has_area = _clip_boxes(annotation_boxes(annotations), record_size(record))
    classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
    return boxes[has_area], classes[has_area]


def _clip_boxes(boxes: np.ndarray, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (N, 4) as float32, clipped to the image if its (height, width) is known, and whether they have area."""
    if size is not None:
        boxes = boxes.clip(0, np.array(size[::-1] * 2))
    boxes = boxes.astype(np.float32)  # before the area check: a short side may become zero in float32
    return boxes, np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def annotation_masks(record: dict) -> MaskArrays:
    """Return the masks of the training objects of a record, the objects of :func:`annotation_arrays`.

    An object without ``segmentation`` has an empty mask.

    Raises:
        ConfigError: if the record was stored without masks.
        DatasetError: if a segmentation is invalid; see :func:`deim.data.masks.mask_arrays`.
    """
    if "annotations" not in record and "boxes" in record:
        return stored_field(record, "mask_arrays")
    annotations, locations = training_annotations(record)
    return mask_arrays([a.get("segmentation") for a in annotations], locations, record_size(record))


def annotation_keypoints(record: dict, num_keypoints: int) -> np.ndarray:
    """Return the keypoints of the training objects of a record, the objects of :func:`annotation_arrays`.

    An object without ``keypoints`` has only unlabeled keypoints.

    Args:
        record: a detectron2 record, or one of :class:`CompactRecords`.
        num_keypoints: P, the number of keypoints of the dataset.

    Returns:
        (N, P, 3) float32: x and y in pixels, visibility.

    Raises:
        ConfigError: if an object has another number of keypoints, or the record was stored without keypoints.
        DatasetError: if keypoints are invalid.
    """
    if "annotations" not in record and "boxes" in record:
        return stored_field(record, "keypoint_array")
    annotations, locations = training_annotations(record)
    return keypoint_array([a.get("keypoints") for a in annotations], locations, num_keypoints)


def stored_field(record: dict, key: str) -> Any:
    """Return a field of a record of :class:`CompactRecords`."""
    if key not in record:
        raise ConfigError(
            f"CompactRecords were created without {key}; create them with masks=True or num_keypoints, or by "
            "InstanceFields.compact of the mapper"
        )
    return record[key]


def training_annotations(record: dict) -> tuple[list[dict], list[str]]:
    """Return the annotations of the training objects, and their locations for error messages."""
    numbers = [number for number, a in enumerate(record.get("annotations", ())) if not a.get("iscrowd", 0)]
    annotations = [record["annotations"][number] for number in numbers]
    _, has_area = _clip_boxes(annotation_boxes(annotations), record_size(record))
    kept = np.flatnonzero(has_area).tolist()
    name = record.get("file_name", "a record without file_name")
    return [annotations[i] for i in kept], [f"{name}, object {numbers[i] + 1}" for i in kept]


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
    """detectron2 records whose objects are stored in a few arrays, shared by all worker processes.

    Reading a Python object writes its reference count, which copies its memory page into the worker (copy-on-write).
    With a list of dicts, every worker ends up with a copy of all annotations; reading arrays copies nothing. All other
    fields of the records are stored in detectron2's serialized list.

    A record has ``boxes`` (N, 4) float32 XYXY and ``classes`` (N,) int64 instead of ``annotations``; see
    :func:`annotation_arrays`. On request, it also has ``mask_arrays``
    (:class:`deim.data.masks.MaskArrays`) and ``keypoint_array`` (N, P, 3) float32.

    Args:
        records: detectron2 records.
        masks: whether to store masks.
        num_keypoints: P, the number of keypoints of an object; None stores no keypoints.
        area_ratios: see :func:`deim.data.areas.annotation_area_ratios`, of all records in order; None stores none.

    Raises:
        ConfigError: if an object has another number of keypoints.
        DatasetError: if a mask or a keypoint is invalid.
    """

    def __init__(
        self,
        records: Sequence[dict],
        masks: bool = False,
        num_keypoints: int | None = None,
        area_ratios: np.ndarray | None = None,
    ):
        objects = [annotation_arrays(record) for record in records]
        self._ends = np.cumsum([len(boxes) for boxes, _ in objects])
        self._boxes = np.concatenate([boxes for boxes, _ in objects])
        self._classes = np.concatenate([classes for _, classes in objects])
        self.masks = MaskArrays.cat([annotation_masks(record) for record in records]) if masks else None
        self.keypoints = None
        if num_keypoints is not None:
            self.keypoints = np.concatenate([annotation_keypoints(record, num_keypoints) for record in records])
        self.area_ratios = area_ratios
        other_fields = ({k: v for k, v in record.items() if k not in OBJECT_KEYS} for record in records)
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
        record = {**self._others[index], "boxes": self._boxes[start:end], "classes": self._classes[start:end]}
        if self.masks is not None:
            record["mask_arrays"] = self.masks[start:end]
        if self.keypoints is not None:
            record["keypoint_array"] = self.keypoints[start:end]
        if self.area_ratios is not None:
            record["area_ratios"] = self.area_ratios[start:end]
        return record
