"""Matching of detections with ground truth, and the outcome of each detection: correct, or a type of error.

The error types follow TIDE (Bolya et al. 2020, arXiv 2008.08115, section 2.2), without its combined error "both".
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deim.structures.boxes import area, intersection, iou
from deim.structures.keypoints import object_keypoint_similarity

CORRECT, DUPLICATE, CLASS, LOCALIZATION, BACKGROUND, IGNORED = range(6)
# Names by index. An "ignored" detection lies on a crowd of its class and counts neither as correct nor as an error.
OUTCOMES = ("correct", "duplicate", "class", "localization", "background", "ignored")
# Minimum IoU of a match, and of a localization error with an object of its class.
MATCH_IOU, LOCALIZATION_IOU = 0.5, 0.1


@dataclass(frozen=True)
class ImageResult:
    """Ground truth and detections of one image.

    Attributes:
        file_name: file name of the image.
        gt_boxes: (N, 4) XYXY in pixels.
        gt_classes: (N,) class indices.
        crowd_boxes: (C, 4) XYXY boxes around groups of objects.
        crowd_classes: (C,) class indices of the crowds.
        boxes: (M, 4) XYXY of the detections, best score first.
        scores: (M,) scores of the detections.
        classes: (M,) class indices of the detections.
        masks: run-length encoded masks of the detections; None if the model predicts no masks.
        keypoints: (M, P, 3) keypoints of the detections: x, y in pixels, score; None if the model predicts none.
        gt_masks: for each object, polygons ``[x0, y0, x1, y1, ...]`` in pixels, a mask (H, W) bool, or None.
        gt_keypoints: (N, P, 3) keypoints of the objects: x, y in pixels, visibility.
        gt_areas: (N,) areas of the objects in square pixels.
        oks_sigmas: P constants of the keypoints. If given, the overlap of a detection and an object is their object
            keypoint similarity instead of the IoU of their boxes.
        size: (height, width) in pixels that boxes refer to; None if unknown.
    """

    file_name: str
    gt_boxes: np.ndarray
    gt_classes: np.ndarray
    crowd_boxes: np.ndarray
    crowd_classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: Sequence[Mapping[str, Any]] | None = None
    keypoints: np.ndarray | None = None
    gt_masks: Sequence[Any] | None = None
    gt_keypoints: np.ndarray | None = None
    gt_areas: np.ndarray | None = None
    oks_sigmas: Sequence[float] | None = None
    size: tuple[int, int] | None = None

    def filter_by_score(self, threshold: float) -> "ImageResult":
        """Return a copy with only the detections of at least this score."""
        keep = self.scores >= threshold
        return dataclasses.replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            classes=self.classes[keep],
            masks=None
            if self.masks is None
            else [mask for mask, is_kept in zip(self.masks, keep, strict=True) if is_kept],
            keypoints=None if self.keypoints is None else self.keypoints[keep],
        )


@dataclass(frozen=True)
class MatchResult:
    """Results of :func:`match_detections` for one image.

    Attributes:
        outcomes: (M,) index into :data:`OUTCOMES` of each detection.
        gt_indices: (M,) index of the object that a correct detection matches; -1 for all other detections.
    """

    outcomes: np.ndarray
    gt_indices: np.ndarray

    def top(self, count: int) -> "MatchResult":
        """Return the results of the ``count`` best detections, which do not depend on detections with lower scores."""
        return MatchResult(self.outcomes[:count], self.gt_indices[:count])


def match_detections(result: ImageResult) -> MatchResult:
    """Match detections with objects and classify the unmatched detections.

    Each detection, best score first, takes the unmatched object of its class with the highest IoU of at least 0.5, as
    in COCO's evaluation.
    """
    ious, on_crowd = iou_with_ground_truth(result), is_on_crowd(result)
    same_class = result.classes[:, None] == result.gt_classes[None]
    outcomes = np.full(len(result.boxes), BACKGROUND)
    gt_indices = np.full(len(result.boxes), -1)
    is_unmatched = np.ones(len(result.gt_boxes), bool)
    for index, row in enumerate(ious):
        same_class_ious = np.where(same_class[index], row, 0.0)
        candidate_ious = np.where(is_unmatched, same_class_ious, 0.0)
        if candidate_ious.size and candidate_ious.max() >= MATCH_IOU:
            outcomes[index], gt_indices[index] = CORRECT, candidate_ious.argmax()
            is_unmatched[gt_indices[index]] = False
        else:
            outcomes[index] = IGNORED if on_crowd[index] else _error_type(same_class_ious, row)
    return MatchResult(outcomes, gt_indices)


def _error_type(same_class_ious: np.ndarray, ious: np.ndarray) -> int:
    """Return the error type of an unmatched detection.

    Args:
        same_class_ious: (N,) IoU with objects of the detection's class, zero for objects of other classes.
        ious: (N,) IoU with all objects.
    """
    if same_class_ious.size and same_class_ious.max() >= MATCH_IOU:
        return DUPLICATE
    if ious.size and ious.max() >= MATCH_IOU:
        return CLASS
    return LOCALIZATION if same_class_ious.size and same_class_ious.max() >= LOCALIZATION_IOU else BACKGROUND


def iou_with_ground_truth(result: ImageResult) -> np.ndarray:
    """Return the (M, N) overlaps of detections and objects: the IoU of their boxes, or the similarity of their
    keypoints."""
    if result.oks_sigmas is not None:
        return _keypoint_similarity(result)
    return iou(torch.from_numpy(result.boxes)[:, None], torch.from_numpy(result.gt_boxes)).numpy()


def _keypoint_similarity(result: ImageResult) -> np.ndarray:
    """Return the (M, N) object keypoint similarity of detections and objects."""
    assert result.keypoints is not None
    assert result.gt_keypoints is not None
    assert result.gt_areas is not None
    assert result.oks_sigmas is not None
    similarity = object_keypoint_similarity(
        torch.from_numpy(result.keypoints[:, None, :, :2].astype(np.float64)),
        torch.from_numpy(result.gt_keypoints[None].astype(np.float64)),
        torch.from_numpy(result.gt_areas[None].astype(np.float64)),
        result.oks_sigmas,
    )
    return similarity.numpy()


def is_on_crowd(result: ImageResult) -> np.ndarray:
    """Return (M,) bool: at least half of the detection lies on a crowd of its class."""
    boxes = torch.from_numpy(result.boxes)[:, None]
    covered = intersection(boxes, torch.from_numpy(result.crowd_boxes)) / area(boxes).clamp(min=1e-9)
    return ((covered.numpy() >= MATCH_IOU) & (result.classes[:, None] == result.crowd_classes)).any(axis=1)
