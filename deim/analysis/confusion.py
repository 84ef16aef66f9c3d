"""Confusion matrix of detections and ground truth."""

from collections.abc import Sequence

import numpy as np

from deim.analysis.judging import SAME, Found, on_crowds, overlaps_with_truths


def confusion_matrix(found: Sequence[Found], num_classes: int) -> np.ndarray:
    """Count detections and objects by class, matched by location with an IoU of at least 0.5.

    Detections are matched in the order of their scores. Each takes an unmatched object, preferably of its own class.

    Args:
        found: ground truth and detections of each image.
        num_classes: K.

    Returns:
        (K + 1, K + 1) int64. Rows are objects, columns detections. The last row counts detections without an object,
        the last column objects without a detection. Unmatched detections on crowds of their class do not count.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for one in found:
        _count(one, matrix)
    return matrix


def _count(one: Found, matrix: np.ndarray) -> None:
    nothing = len(matrix) - 1
    overlap, on_crowd = overlaps_with_truths(one), on_crowds(one)
    free = np.ones(len(one.truth_boxes), bool)
    for place, label in enumerate(one.classes):
        usable = np.where(free & (overlap[place] >= SAME), overlap[place] + (one.truth_classes == label), 0.0)
        if usable.size and usable.max() > 0:
            taken = int(usable.argmax())
            free[taken] = False
            matrix[one.truth_classes[taken], label] += 1
        elif not on_crowd[place]:
            matrix[nothing, label] += 1
    matrix[:, nothing] += np.bincount(one.truth_classes[free], minlength=len(matrix))
