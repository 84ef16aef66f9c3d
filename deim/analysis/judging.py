"""Classification of detections as correct or as one of several kinds of errors.

The kinds follow TIDE (Bolya et al. 2020, arXiv 2008.08115, section 2.2), without its combined error "both".
"""

from dataclasses import dataclass

import numpy as np
import torch

from deim.structures.boxes import area, intersection, iou

CORRECT, DUPLICATE, CLASS, LOCALISATION, BACKGROUND, IGNORED = range(6)
# Names by index. "ignored" detections lie on a crowd of their class and count neither as correct nor as errors.
KINDS = ("correct", "duplicate", "class", "localization", "background", "ignored")
# Minimum IoU for a detection to match an object, and to be a localization error near one.
SAME, NEAR = 0.5, 0.1


@dataclass(frozen=True)
class Found:
    """Ground truth and detections of one image.

    Attributes:
        file_name: file name of the image.
        truth_boxes: (N, 4) XYXY in pixels.
        truth_classes: (N,) class indices.
        crowds: (C, 4) XYXY boxes around groups of objects.
        crowd_classes: (C,) class indices of the crowds.
        boxes: (M, 4) XYXY of the detections, best score first.
        scores: (M,) scores of the detections.
        classes: (M,) class indices of the detections.
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
        """Return a copy with only the detections of at least this score."""
        kept = self.scores >= threshold
        truths = (self.truth_boxes, self.truth_classes, self.crowds, self.crowd_classes)
        return Found(self.file_name, *truths, self.boxes[kept], self.scores[kept], self.classes[kept])


@dataclass(frozen=True)
class Judged:
    """Results of :func:`judge` for one image.

    Attributes:
        kinds: (M,) index into :data:`KINDS` of each detection.
        truths: (M,) index of the object that a correct detection matches; -1 for all other detections.
    """

    kinds: np.ndarray
    truths: np.ndarray

    def first(self, count: int) -> "Judged":
        """Return the results of the ``count`` best detections, which do not depend on detections with lower scores."""
        return Judged(self.kinds[:count], self.truths[:count])


def judge(found: Found) -> Judged:
    """Match detections with objects and classify the unmatched detections.

    Each detection, best score first, takes the unmatched object of its class with the highest IoU of at least 0.5, as
    in COCO's evaluation.
    """
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
    """Return the kind of error of an unmatched detection.

    Args:
        own: (N,) IoU with objects of the detection's class, zero for objects of other classes.
        overlaps: (N,) IoU with all objects.
    """
    if own.size and own.max() >= SAME:
        return DUPLICATE
    if overlaps.size and overlaps.max() >= SAME:
        return CLASS
    return LOCALISATION if own.size and own.max() >= NEAR else BACKGROUND


def overlaps_with_truths(found: Found) -> np.ndarray:
    """Return the (M, N) IoU of detections and objects."""
    return iou(torch.from_numpy(found.boxes)[:, None], torch.from_numpy(found.truth_boxes)).numpy()


def on_crowds(found: Found) -> np.ndarray:
    """Return (M,) bool: at least half of the detection lies on a crowd of its class."""
    boxes = torch.from_numpy(found.boxes)[:, None]
    covered = intersection(boxes, torch.from_numpy(found.crowds)) / area(boxes).clamp(min=1e-9)
    return ((covered.numpy() >= SAME) & (found.classes[:, None] == found.crowd_classes)).any(axis=1)
