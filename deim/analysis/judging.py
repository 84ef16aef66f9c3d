"""What each detection of an image is: right, or wrong in which way.

Kinds of errors as in TIDE (Bolya et al. 2020, arXiv 2008.08115, section 2.2), without its mixed one.
"""

from dataclasses import dataclass

import numpy as np

CORRECT, DUPLICATE, CLASS, LOCALISATION, BACKGROUND, IGNORED = range(6)
# By their number; what lies on a crowd of its class counts neither for nor against.
KINDS = ("correct", "duplicate", "class", "localisation", "background", "ignored")
# From this overlap on a detection is of an object; from the second one on it is near one.
SAME, NEAR = 0.5, 0.1


@dataclass(frozen=True)
class Found:
    """What is in an image, and what was found there.

    Attributes:
        file_name: of the image.
        truth_boxes: (N, 4) XYXY in pixels.
        truth_classes: (N,).
        crowds: (C, 4) boxes around many objects, of ``crowd_classes`` (C,).
        boxes: (M, 4) XYXY of detections, best first.
        scores: (M,).
        classes: (M,).
    """

    file_name: str
    truth_boxes: np.ndarray
    truth_classes: np.ndarray
    crowds: np.ndarray
    crowd_classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def above(self, threshold: float) -> "Found":
        """With the detections of at least this score."""
        kept = self.scores >= threshold
        truths = (self.truth_boxes, self.truth_classes, self.crowds, self.crowd_classes)
        return Found(self.file_name, *truths, self.boxes[kept], self.scores[kept], self.classes[kept])


@dataclass(frozen=True)
class Judged:
    """
    Attributes:
        kinds: (M,) index into :data:`KINDS` of each detection.
        truths: (M,) the object that a correct one is of; -1 for others.
    """

    kinds: np.ndarray
    truths: np.ndarray


def judge(found: Found) -> Judged:
    """Give each detection, best first, the object of its class that it overlaps most and that no better one has, as
    COCO's evaluation does at an IoU of 0.5; and tell what the others are."""
    overlap = iou(found.boxes, found.truth_boxes)
    same_class = found.classes[:, None] == found.truth_classes[None]
    on_crowd = (covered(found.boxes, found.crowds) >= SAME) & (found.classes[:, None] == found.crowd_classes[None])
    kinds = np.full(len(found.boxes), BACKGROUND)
    truths = np.full(len(found.boxes), -1)
    free = np.ones(len(found.truth_boxes), bool)
    for place, overlaps in enumerate(overlap):
        own = np.where(same_class[place], overlaps, 0.0)
        open_ones = np.where(free, own, 0.0)
        if open_ones.size and open_ones.max() >= SAME:
            kinds[place], truths[place] = CORRECT, open_ones.argmax()
            free[truths[place]] = False
        else:
            kinds[place] = _error(own, overlaps, on_crowd[place])
    return Judged(kinds, truths)


def _error(own: np.ndarray, overlaps: np.ndarray, on_crowd: np.ndarray) -> int:
    """
    Args:
        own: (N,) overlaps with objects of the detection's class, zero for others.
        overlaps: (N,) with all objects.
        on_crowd: (C,) bool.
    """
    if on_crowd.any():
        return IGNORED
    if own.size and own.max() >= SAME:
        return DUPLICATE
    if overlaps.size and overlaps.max() >= SAME:
        return CLASS
    return LOCALISATION if own.size and own.max() >= NEAR else BACKGROUND


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) of boxes (N, 4) and (M, 4) XYXY."""
    shared = _intersection(a, b)
    union = _area(a)[:, None] + _area(b)[None] - shared
    return shared / np.maximum(union, 1e-9)


def covered(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) which part of each box of ``a`` lies in each of ``b``."""
    return _intersection(a, b) / np.maximum(_area(a)[:, None], 1e-9)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clip(0).prod(axis=2)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
