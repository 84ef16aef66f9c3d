"""Distances of predicted keypoints from the labeled ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deim.analysis.detection_matching import CORRECT, ImageResult, MatchResult

# Maximum distance of a keypoint that counts as found, as a fraction of the object's size.
FOUND_DISTANCE = 0.1


@dataclass(frozen=True)
class KeypointErrors:
    """Errors of each of P keypoints, over its labeled positions in objects with a correct detection.

    Attributes:
        counts: (P,) number of labeled positions.
        pixels: (P,) median distance in pixels; NaN without labeled positions, as below.
        relative: (P,) median distance, as a fraction of the object's size, the square root of the area of its box.
        found: (P,) share of distances of at most :data:`FOUND_DISTANCE` of the object's size.
    """

    counts: np.ndarray
    pixels: np.ndarray
    relative: np.ndarray
    found: np.ndarray


def keypoint_errors(results: Sequence[ImageResult], matches: Sequence[MatchResult]) -> KeypointErrors | None:
    """Return the errors of the keypoints of correct detections; None if there are no keypoints."""
    distances, sizes, labeled = [], [], []
    for result, match in zip(results, matches, strict=True):
        if result.keypoints is None or result.gt_keypoints is None:
            return None
        is_correct = match.outcomes == CORRECT
        objects = match.gt_indices[is_correct]
        target = result.gt_keypoints[objects]
        distances.append(np.linalg.norm(result.keypoints[is_correct][..., :2] - target[..., :2], axis=-1))
        boxes = result.gt_boxes[objects]
        sizes.append(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
        labeled.append(target[..., 2] > 0)
    if not distances:
        return None
    pixels, is_labeled = np.concatenate(distances), np.concatenate(labeled)
    relative = pixels / np.concatenate(sizes)[:, None]
    columns = [(pixels[is_point, index], relative[is_point, index]) for index, is_point in enumerate(is_labeled.T)]
    return KeypointErrors(
        is_labeled.sum(axis=0),
        np.array([_median(distance) for distance, _ in columns]),
        np.array([_median(fraction) for _, fraction in columns]),
        np.array([(fraction <= FOUND_DISTANCE).mean() if len(fraction) else np.nan for _, fraction in columns]),
    )


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan
