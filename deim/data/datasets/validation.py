"""Validation of datasets."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deim.data.datasets.annotation_errors import AnnotationError, find_keypoint_errors, find_mask_errors
from deim.data.datasets.keypoints import KeypointDefinition, fill_missing_keypoints
from deim.data.records import annotation_boxes
from deim.errors import DatasetError

logger = logging.getLogger("detectron2.deim")


@dataclass(frozen=True)
class Problem:
    """A problem in a dataset.

    Attributes:
        location: file, with the line or the object.
        message: description of the problem.
        is_fatal: whether the problem, unless it is tolerated, prevents training; otherwise the object is left out.
        is_missing_image: whether the problem is a missing image file.
        task: "masks" or "keypoints" for a problem that concerns only models that train on these, otherwise "boxes".
        annotation: the annotation that is left out because of a problem with its mask or its keypoints.
    """

    location: str
    message: str
    is_fatal: bool
    is_missing_image: bool = False
    task: str = "boxes"
    annotation: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


def _has_no_area(boxes: np.ndarray) -> np.ndarray:
    """Return (N,) bool for boxes (N, 4) XYXY: whether a side has zero length in float32, the training precision."""
    with np.errstate(over="ignore"):
        single = boxes.astype(np.float32)
    return (single[:, 2:] == single[:, :2]).any(axis=1)


def find_object_problems(records: Sequence[dict], num_classes: int) -> Iterator[Problem]:
    """Yield problems of objects: boxes with NaN/Inf, without area or outside of the image, and invalid classes.

    Args:
        records: detectron2 records; an annotation may have a ``line``, its line number in the record's
            ``annotation_file``.
        num_classes: number of classes.
    """
    annotations = [a for record in records for a in record.get("annotations", [])]
    if not annotations:
        return
    owners = np.repeat(np.arange(len(records)), [len(record.get("annotations", [])) for record in records])
    boxes, classes = annotation_boxes(annotations), np.array([a["category_id"] for a in annotations])
    sizes = np.array([[r.get("width") or np.inf, r.get("height") or np.inf] for r in records])[owners]
    visible = np.minimum(boxes[:, 2:], sizes) - np.maximum(boxes[:, :2], 0)
    checks = (
        (~np.isfinite(boxes).all(axis=1), True, "the box {box} (XYXY) contains NaN/Inf"),
        ((boxes[:, 2:] < boxes[:, :2]).any(axis=1), False, "the box {box} (XYXY) has a negative side"),
        (_has_no_area(boxes), False, "the box {box} (XYXY) has no area"),
        ((visible <= 0).any(axis=1), False, "the box {box} (XYXY) is outside of the image ({size})"),
        ((classes < 0) | (classes >= num_classes), True, f"class {{label}} is not one of the {num_classes} classes"),
    )
    reported = np.zeros(len(annotations), dtype=bool)
    for is_affected, is_fatal, template in checks:
        for index in np.flatnonzero(is_affected & ~reported):
            record, label = records[owners[index]], classes[index]
            number = index - np.searchsorted(owners, owners[index])
            size = f"{record.get('width')} x {record.get('height')}"
            message = template.format(box=np.round(boxes[index], 2).tolist(), size=size, label=label)
            yield Problem(_object_location(record, annotations[index], int(number)), message, is_fatal)
        reported |= is_affected


def _object_location(record: dict, annotation: dict, number: int) -> str:
    if "line" in annotation:
        return f"{record['annotation_file']}:{annotation['line']}"
    return f"{record['file_name']}, object {number + 1}"


@dataclass
class DatasetContent:
    """Result of reading a dataset.

    Attributes:
        records: detectron2 records.
        classes: class names in index order.
        problems: problems of reading; entries with a fatal problem are missing in ``records``.
        notes: assumptions the reader made, one sentence each.
        keypoints: names and connections of the keypoints; None if the dataset has none, or its keypoints are not read.
    """

    records: list[dict]
    classes: Sequence[str]
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    keypoints: KeypointDefinition | None = None

    def all_problems(self, masks: bool = False, keypoints: bool = False) -> list[Problem]:
        """Return the problems of reading and of the objects.

        Args:
            masks, keypoints: whether to check the masks and the keypoints of the objects.
        """
        problems = [*self.problems, *find_object_problems(self.records, len(self.classes))]
        if masks:
            problems += [self._problem(error, "masks") for error in find_mask_errors(self.records)]
        if keypoints and self.keypoints is not None:
            errors = find_keypoint_errors(self.records, len(self.keypoints.names))
            problems += [self._problem(error, "keypoints") for error in errors]
        return problems

    def _problem(self, error: AnnotationError, task: str) -> Problem:
        record = self.records[error.record]
        annotation = record["annotations"][error.number]
        location = _object_location(record, annotation, error.number)
        return Problem(location, error.message, error.is_fatal, task=task, annotation=annotation)


class InvalidDatasetError(DatasetError):
    """Raised for a dataset with fatal problems.

    Attributes:
        content: the part of the dataset that could be read.
    """

    content: DatasetContent


def validate_dataset(
    name: str,
    content: DatasetContent,
    max_invalid_records: int = 0,
    masks: bool = False,
    keypoints: bool = False,
) -> None:
    """Raise an error for fatal problems, and log a warning for objects that training leaves out.

    Args:
        name: name of the dataset.
        content: dataset content. If fatal problems are tolerated, the affected objects are removed in place; so are
            objects without a usable mask. Objects without keypoints get keypoints with visibility 0.
        max_invalid_records: number of fatal problems that are tolerated.
        masks, keypoints: whether a model is trained on masks or keypoints, which are then required.

    Raises:
        InvalidDatasetError: if there are more fatal problems. The message lists the first ones.
        DatasetError: if masks or keypoints are required, and no object has any.
    """
    _require_annotations(name, content, masks, keypoints)
    problems = content.all_problems(masks, keypoints)
    fatal = [problem for problem in problems if problem.is_fatal]
    if 0 < len(fatal) <= max_invalid_records:
        listing = "\n".join(f"  {problem}" for problem in fatal[:20])
        listing += f"\n  and {len(fatal) - 20} more; run deim check-data to list all" if len(fatal) > 20 else ""
        logger.warning(
            f"dataset {name!r}: skipping images and objects with {len(fatal)} problems ({max_invalid_records} allowed):\n{listing}"
        )
        drop_invalid_objects(content)
        _drop_annotations(content, fatal)
    elif fatal:
        lines = [f"dataset {name!r} cannot be used:", *_summarize_missing_images(content, fatal)]
        lines += [f"  {problem}" for problem in fatal[:5]]
        if len(fatal) > 5:
            lines.append(f"  and {len(fatal) - 5} more; run deim check-data to list all")
        lines.append(
            f"  to skip them, set +dataloader.train.dataset.max_invalid_records={len(fatal)} (+dataloader.test.dataset... for "
            "test images)"
        )
        error = InvalidDatasetError("\n".join(lines))
        error.content = content
        raise error
    warnings = [problem for problem in problems if not problem.is_fatal]
    if warnings:
        logger.warning(
            f"dataset {name!r}: {len(warnings)} objects are left out; the first: {warnings[0]}; "
            "run deim check-data to list all"
        )
        _drop_annotations(content, warnings)
        left_out = _LEFT_OUT.get()
        if left_out is not None:
            left_out += [problem for problem in warnings if problem.annotation is not None]


_LEFT_OUT: ContextVar[list[Problem] | None] = ContextVar("left_out", default=None)


@contextmanager
def collect_left_out() -> Iterator[list[Problem]]:
    """Collect the problems of objects that :func:`validate_dataset` leaves out of the records."""
    problems: list[Problem] = []
    token = _LEFT_OUT.set(problems)
    try:
        yield problems
    finally:
        _LEFT_OUT.reset(token)


def _require_annotations(name: str, content: DatasetContent, masks: bool, keypoints: bool) -> None:
    """Raise DatasetError if masks or keypoints are required but missing; complete the keypoints."""
    if not masks and not keypoints:
        return
    annotations = [a for record in content.records for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
    if masks and annotations and not any(annotation.get("segmentation") for annotation in annotations):
        raise DatasetError(f"dataset {name!r} has no masks: none of its {len(annotations)} objects has a segmentation")
    if not keypoints:
        return
    if content.keypoints is None:
        raise DatasetError(f"dataset {name!r} defines no keypoints")
    if annotations and not any(annotation.get("keypoints") for annotation in annotations):
        raise DatasetError(f"dataset {name!r} has no keypoints: none of its {len(annotations)} objects has any")
    fill_missing_keypoints(content.records, content.keypoints)


def drop_objects_without_masks(content: DatasetContent) -> None:
    """Remove objects and crowds without a mask, and objects with an invalid one, in place."""
    _drop_annotations(content, [p for p in content.all_problems(masks=True) if p.task == "masks"])
    drop_annotations_without_masks(content)


def drop_annotations_without_masks(content: DatasetContent) -> None:
    """Remove annotations without a mask, in place; in valid content, only crowds have none.

    The evaluation of masks needs the mask of every annotation.
    """
    for record in content.records:
        record["annotations"] = [a for a in record.get("annotations", ()) if a.get("segmentation")]


def _drop_annotations(content: DatasetContent, problems: Sequence[Problem]) -> None:
    """Remove the annotations with a problem of their masks or keypoints, in place."""
    dropped = {id(problem.annotation) for problem in problems if problem.annotation is not None}
    for record in content.records if dropped else ():
        record["annotations"] = [a for a in record.get("annotations", ()) if id(a) not in dropped]


def _summarize_missing_images(content: DatasetContent, problems: Sequence[Problem]) -> list[str]:
    missing = [problem for problem in problems if problem.is_missing_image]
    if not missing:
        return []
    return [f"  {len(missing)} of {len(content.records) + len(missing)} images do not exist"]


def drop_invalid_objects(content: DatasetContent) -> None:
    """Remove objects with NaN/Inf boxes or invalid classes, in place."""
    for record in content.records:
        annotations = record.get("annotations", [])
        is_finite = np.isfinite(annotation_boxes(annotations)).all(axis=1)
        record["annotations"] = [
            annotation
            for annotation, is_box_finite in zip(annotations, is_finite, strict=True)
            if is_box_finite and 0 <= annotation["category_id"] < len(content.classes)
        ]


def is_box(value: object) -> bool:
    """Return whether a value is a list of 4 numbers."""
    return isinstance(value, list) and len(value) == 4 and all(isinstance(number, int | float) for number in value)


def require_inside_folder(file_name: str, root: str, annotation_file: str) -> None:
    """Check that an image path is inside the image folder.

    Symbolic links inside the folder may point anywhere: the owner of the folder created them.

    Args:
        file_name: image path, built from ``root`` and a name in the annotation file.
        root: the image folder.
        annotation_file: the annotation file, for the message.

    Raises:
        DatasetError: if the path is outside of the folder.
    """
    if root and file_name.startswith(os.path.join(root, "")) and os.pardir not in file_name[len(root) :]:
        return  # fast path
    if os.path.relpath(file_name, root).split(os.sep)[0] == os.pardir:
        raise DatasetError(
            f"{annotation_file} references the image {file_name}, which is outside of {root}; set image_root to the "
            "folder that contains all images, and make file names relative to it"
        )
