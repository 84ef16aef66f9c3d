"""What each detection of an image is: right, or wrong in which way.

Kinds of errors as in TIDE (Bolya et al. 2020, arXiv 2008.08115, section 2.2), without its mixed one.
"""

from dataclasses import dataclass

import numpy as np
import torch

from deim.structures.boxes import area, intersection, iou

CORRECT, DUPLICATE, CLASS, LOCALISATION, BACKGROUND, IGNORED = range(6)
# By their number; what lies on a crowd of its class counts neither for nor against.
KINDS = ("correct", "duplicate", "class", "localization", "background", "ignored")
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

    def first(self, count: int) -> "Judged":
        """Of the best so many detections: what one is does not depend on worse ones."""
        return Judged(self.kinds[:count], self.truths[:count])


def judge(found: Found) -> Judged:
    """Give each detection, best first, the object of its class that it overlaps most and that no better one has, as
    COCO's evaluation does at an IoU of 0.5; and tell what the others are."""
    overlap, on_crowd = overlaps_with_truths(found), on_crowds(found)
    same_class = found.classes[:, None] == found.truth_classes[None]
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
            kinds[place] = IGNORED if on_crowd[place] else _error(own, overlaps)
    return Judged(kinds, truths)


def _error(own: np.ndarray, overlaps: np.ndarray) -> int:
    """
    Args:
        own: (N,) overlaps with objects of the detection's class, zero for others.
        overlaps: (N,) with all objects.
    """
    if own.size and own.max() >= SAME:
        return DUPLICATE
    if overlaps.size and overlaps.max() >= SAME:
        return CLASS
    return LOCALISATION if own.size and own.max() >= NEAR else BACKGROUND


def overlaps_with_truths(found: Found) -> np.ndarray:
    """(M, N) IoU of detections and objects."""
    return iou(torch.from_numpy(found.boxes)[:, None], torch.from_numpy(found.truth_boxes)).numpy()


def on_crowds(found: Found) -> np.ndarray:
    """(M,) bool: detections of which half or more lies on a crowd of their class."""
    boxes = torch.from_numpy(found.boxes)[:, None]
    covered = intersection(boxes, torch.from_numpy(found.crowds)) / area(boxes).clamp(min=1e-9)
    return ((covered.numpy() >= SAME) & (found.classes[:, None] == found.crowd_classes)).any(axis=1)
