"""Precision-recall curves and the best score threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deim.analysis.detection_matching import CORRECT, IGNORED, ImageResult, MatchResult


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision-recall curve of one class.

    Attributes:
        num_objects: number of ground-truth objects.
        scores: (D,) scores of the detections in descending order, without ignored detections.
        precision, recall: (D,) values in [0, 1]; element i counts detections 0 to i.
    """

    num_objects: int
    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """(D,) harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / np.maximum(total, 1e-9)

    @property
    def best_index(self) -> int | None:
        """Index of the best F1; None if the class has no detections or no objects."""
        return int(self.f1.argmax()) if len(self.scores) and self.num_objects else None

    def f1_at(self, threshold: float) -> float:
        """Return the F1 of the detections with at least this score."""
        count = int((self.scores >= threshold).sum())
        return float(self.f1[count - 1]) if count else 0.0


def precision_recall_curves(
    results: Sequence[ImageResult], matches: Sequence[MatchResult], num_classes: int
) -> list[PrecisionRecallCurve]:
    """Return one curve per class."""
    scores = np.concatenate([result.scores for result in results]) if results else np.zeros(0)
    classes = np.concatenate([result.classes for result in results]) if results else np.zeros(0, int)
    outcomes = np.concatenate([match.outcomes for match in matches]) if matches else np.zeros(0, int)
    gt_classes = np.concatenate([result.gt_classes for result in results]) if results else np.zeros(0, int)
    is_counted = outcomes != IGNORED
    return [
        _curve(int((gt_classes == index).sum()), scores[is_class], outcomes[is_class] == CORRECT)
        for index in range(num_classes)
        for is_class in [is_counted & (classes == index)]
    ]


def best_threshold(curves: Sequence[PrecisionRecallCurve]) -> float:
    """Return the threshold from 0.05 to 0.95 with the highest mean F1 over the classes that have objects.

    Return 0.5 if no detection with a score of at least 0.05 is correct.
    """
    nonempty_curves = [curve for curve in curves if curve.num_objects]
    candidates = np.linspace(0.05, 0.95, 91)
    f1_sums = np.array([sum(curve.f1_at(threshold) for curve in nonempty_curves) for threshold in candidates])
    return float(candidates[f1_sums.argmax()]) if f1_sums.max() > 0 else 0.5


def _curve(num_objects: int, scores: np.ndarray, correct: np.ndarray) -> PrecisionRecallCurve:
    order = np.argsort(-scores, kind="stable")
    true_positives = correct[order].cumsum()
    return PrecisionRecallCurve(
        num_objects,
        scores[order],
        true_positives / np.arange(1, len(true_positives) + 1),
        true_positives / max(num_objects, 1),
    )
