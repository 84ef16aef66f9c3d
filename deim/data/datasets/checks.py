"""What can be wrong with a data set, and saying so."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deim.data.records import boxes_of
from deim.errors import DatasetError

logger = logging.getLogger("detectron2.deim")


@dataclass(frozen=True)
class Problem:
    """One fault of a data set.

    Attributes:
        place: file, with the line or the object.
        what: is wrong.
        fatal: the data set cannot be trained on; else the object is left out.
    """

    place: str
    what: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


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
        ((boxes[:, 2:] == boxes[:, :2]).any(axis=1), False, "the box {box} has no area"),
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
        records: of detectron2.
        classes: their names, in the order of the class indices.
        problems: what could not be read.
    """

    records: list[dict]
    classes: Sequence[str]
    problems: list[Problem]

    def all_problems(self) -> list[Problem]:
        return [*self.problems, *object_problems(self.records, len(self.classes))]


class UnsoundDatasetError(DatasetError):
    """A data set has problems that forbid training on it.

    Attributes:
        content: what could be read all the same.
    """

    content: Content


def require_sound(name: str, content: Content) -> None:
    """Warn of objects that training leaves out.

    Raises:
        UnsoundDatasetError: some problem is fatal; it tells the first ones.
    """
    problems = content.all_problems()
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        lines = [f"data set {name!r} cannot be used:", *(f"  {problem}" for problem in fatal[:5])]
        if len(fatal) > 5:
            lines.append(f"  and {len(fatal) - 5} more; tools/check_dataset.py lists them all")
        error = UnsoundDatasetError("\n".join(lines))
        error.content = content
        raise error
    if problems:
        logger.warning(
            f"data set {name!r}: {len(problems)} objects are left out, the first: {problems[0]}; "
            "tools/check_dataset.py lists them all"
        )
