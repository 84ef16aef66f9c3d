"""What can be wrong with a data set, and saying so."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from deim.data.records import boxes_of
from deim.errors import DatasetError

logger = logging.getLogger("detectron2.deim")


@dataclass(frozen=True)
class Problem:
    """One fault of a data set.

    Attributes:
        place: The file, with the line or the object.
        what: What is wrong.
        fatal: The data set cannot be trained on; else the object is left out.
        missing: It is an image whose file does not exist.
    """

    place: str
    what: str
    fatal: bool
    missing: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def _is_flat(boxes: np.ndarray) -> np.ndarray:
    """(N,) bool of (N, 4) XYXY: whether a side is nothing, in the precision that models are trained in."""
    with np.errstate(over="ignore"):
        single = boxes.astype(np.float32)
    return (single[:, 2:] == single[:, :2]).any(axis=1)


def object_problems(records: Sequence[dict], num_classes: int) -> Iterator[Problem]:
    """Boxes that are not finite, not in the image or without area, and classes that do not exist.

    Args:
        records: of detectron2; an annotation may have a ``line``, and its record the ``annotation_file``
            that this is a line of.
    """
    annotations = [a for record in records for a in record.get("annotations", [])]
    if not annotations:
        return
    owners = np.repeat(np.arange(len(records)), [len(record.get("annotations", [])) for record in records])
    boxes, classes = boxes_of(annotations), np.array([a["category_id"] for a in annotations])
    sizes = np.array([[r.get("width") or np.inf, r.get("height") or np.inf] for r in records])[owners]
    shown = np.minimum(boxes[:, 2:], sizes) - np.maximum(boxes[:, :2], 0)
    faults = (
        (~np.isfinite(boxes).all(axis=1), True, "the box {box} is not finite"),
        ((boxes[:, 2:] < boxes[:, :2]).any(axis=1), False, "the box {box} has a negative side"),
        (_is_flat(boxes), False, "the box {box} has no area"),
        ((shown <= 0).any(axis=1), False, "the box {box} lies outside of its image of {size}"),
        ((classes < 0) | (classes >= num_classes), True, f"class {{label}} is not one of the {num_classes} classes"),
    )
    seen = np.zeros(len(annotations), dtype=bool)
    for found, fatal, message in faults:
        for index in np.flatnonzero(found & ~seen):
            record, label = records[owners[index]], classes[index]
            number = index - np.searchsorted(owners, owners[index])
            size = f"{record.get('width')} x {record.get('height')}"
            what = message.format(box=np.round(boxes[index], 2).tolist(), size=size, label=label)
            yield Problem(_place(record, annotations[index], int(number)), what, fatal)
        seen |= found


def _place(record: dict, annotation: dict, number: int) -> str:
    if "line" in annotation:
        return f"{record['annotation_file']}:{annotation['line']}"
    return f"{record['file_name']}, object {number + 1} (XYXY)"


@dataclass
class Content:
    """What a reader found.

    Attributes:
        records: Records of detectron2.
        classes: Names of the classes, in the order of their indices.
        problems: What could not be read.
        notes: What the reader had to guess, one sentence each.
    """

    records: list[dict]
    classes: Sequence[str]
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)

    def all_problems(self) -> list[Problem]:
        return [*self.problems, *object_problems(self.records, len(self.classes))]


class UnsoundDatasetError(DatasetError):
    """A data set has problems that forbid training on it.

    Attributes:
        content: what could be read all the same.
    """

    content: Content


def require_sound(name: str, content: Content, problems_allowed: int = 0) -> None:
    """Raise an error for fatal problems, and warn of objects that training leaves out.

    Args:
        name: Of the data set.
        content: What was read. Unsound objects are taken out of it if their problems are allowed.
        problems_allowed: The number of fatal problems that are not an error.

    Raises:
        UnsoundDatasetError: There are more fatal problems. The message lists the first ones.
    """
    problems = content.all_problems()
    fatal = [problem for problem in problems if problem.fatal]
    if 0 < len(fatal) <= problems_allowed:
        told = "\n".join(f"  {problem}" for problem in fatal[:20])
        logger.warning(f"data set {name!r}: {len(fatal)} of {problems_allowed} problems allowed are left out:\n{told}")
        leave_out_unsound(content)
    elif fatal:
        lines = [f"data set {name!r} cannot be used:", *_count_of_missing(content, fatal)]
        lines += [f"  {problem}" for problem in fatal[:5]]
        if len(fatal) > 5:
            lines.append(f"  and {len(fatal) - 5} more; deim check-data lists them all")
        lines.append(f"  +dataloader.train.dataset.problems_allowed={len(fatal)} leaves them out")
        error = UnsoundDatasetError("\n".join(lines))
        error.content = content
        raise error
    harmless = [problem for problem in problems if not problem.fatal]
    if harmless:
        logger.warning(
            f"data set {name!r}: {len(harmless)} objects are left out, the first: {harmless[0]}; "
            "deim check-data lists them all"
        )


def _count_of_missing(content: Content, problems: Sequence[Problem]) -> list[str]:
    missing = [problem for problem in problems if problem.missing]
    if not missing:
        return []
    return [f"  {len(missing)} of {len(content.records) + len(missing)} images do not exist"]


def leave_out_unsound(content: Content) -> None:
    """Take the objects out whose box is not finite or whose class does not exist, in place."""
    for record in content.records:
        kept = record.get("annotations", [])
        sound = np.isfinite(boxes_of(kept)).all(axis=1)
        record["annotations"] = [
            annotation
            for annotation, finite in zip(kept, sound, strict=True)
            if finite and 0 <= annotation["category_id"] < len(content.classes)
        ]


def is_box(value: object) -> bool:
    """Whether a value of an annotation file is a list of 4 numbers."""
    return isinstance(value, list) and len(value) == 4 and all(isinstance(number, int | float) for number in value)


def require_inside(file_name: str, root: str, where: str) -> None:
    """
    Args:
        file_name: of an image, as an annotation file makes it of ``root`` and a name of its own.
        where: the annotation file, for the message.

    Raises:
        DatasetError: the name leads out of the folder. Links in the folder may do so: whoever owns it has made them.
    """
    if file_name.startswith(root) and os.pardir not in file_name[len(root) :]:
        return  # which can be told sooner
    if os.path.relpath(file_name, root).split(os.sep)[0] == os.pardir:
        raise DatasetError(
            f"{where} names the image {file_name}, which is not in {root}: take the folder that holds all images as "
            "image_root, and names that begin there"
        )
