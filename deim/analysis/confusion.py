"""Confusion matrix of detections and ground truth."""

from collections.abc import Sequence

import numpy as np

from deim.analysis.detection_matching import MATCH_IOU, ImageResult, iou_with_ground_truth, is_on_crowd


def confusion_matrix(results: Sequence[ImageResult], num_classes: int) -> np.ndarray:
    """Count detections and objects by class, matched by location with an IoU of at least 0.5.

    Detections are matched in the order of their scores. Each takes an unmatched object, preferably of its own class.

    Args:
        results: ground truth and detections of each image.
        num_classes: K.

    Returns:
        (K + 1, K + 1) int64. Rows are objects, columns detections. The last row counts detections without an object,
        the last column objects without a detection. Unmatched detections on crowds of their class do not count.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for result in results:
        _count(result, matrix)
    return matrix


def _count(result: ImageResult, matrix: np.ndarray) -> None:
    background = len(matrix) - 1
    ious, is_ignored = iou_with_ground_truth(result), is_on_crowd(result)
    is_unmatched = np.ones(len(result.gt_boxes), bool)
    for index, label in enumerate(result.classes):
        candidates = np.where(
            is_unmatched & (ious[index] >= MATCH_IOU), ious[index] + (result.gt_classes == label), 0.0
        )
        if candidates.size and candidates.max() > 0:
            gt_index = int(candidates.argmax())
            is_unmatched[gt_index] = False
            matrix[result.gt_classes[gt_index], label] += 1
        elif not is_ignored[index]:
            matrix[background, label] += 1
    matrix[:, background] += np.bincount(result.gt_classes[is_unmatched], minlength=len(matrix))
