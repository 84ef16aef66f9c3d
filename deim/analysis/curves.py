"""Precision-recall curves and the best score threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deim.analysis.judging import CORRECT, IGNORED, Found, Judged


@dataclass(frozen=True)
class Curve:
    """Precision-recall curve of one class.

    Attributes:
        objects: number of ground-truth objects.
        scores: (D,) scores of the detections in descending order: the thresholds of the values below.
        precision, recall: (D,) values in [0, 1].
    """

    objects: int
    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """(D,) harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / np.maximum(total, 1e-9)

    @property
    def best(self) -> int | None:
        """Index of the best F1; None if the class has no detections or no objects."""
        return int(self.f1.argmax()) if len(self.scores) and self.objects else None

    def f1_at(self, threshold: float) -> float:
        """Return the F1 of the detections with at least this score."""
        count = int((self.scores >= threshold).sum())
        return float(self.f1[count - 1]) if count else 0.0


def curves_of_classes(found: Sequence[Found], judged: Sequence[Judged], num_classes: int) -> list[Curve]:
    """Return one curve per class."""
    scores = np.concatenate([one.scores for one in found]) if found else np.zeros(0)
    classes = np.concatenate([one.classes for one in found]) if found else np.zeros(0, int)
    kinds = np.concatenate([one.kinds for one in judged]) if judged else np.zeros(0, int)
    truths = np.concatenate([one.truth_classes for one in found]) if found else np.zeros(0, int)
    counted = kinds != IGNORED
    return [
        _curve(int((truths == index).sum()), scores[of_class], kinds[of_class] == CORRECT)
        for index in range(num_classes)
        for of_class in [counted & (classes == index)]
    ]


def best_threshold(curves: Sequence[Curve]) -> float:
    """Return the threshold with the highest mean F1 over classes; 0.5 if there are no correct detections."""
    known = [curve for curve in curves if curve.objects]
    candidates = np.linspace(0.05, 0.95, 91)
    sums = np.array([sum(curve.f1_at(value) for curve in known) for value in candidates])
    return float(candidates[sums.argmax()]) if sums.max() > 0 else 0.5


def _curve(objects: int, scores: np.ndarray, correct: np.ndarray) -> Curve:
    order = np.argsort(-scores, kind="stable")
    hits = correct[order].cumsum()
    return Curve(
        objects,
        scores[order],
        hits / np.arange(1, len(hits) + 1),
        hits / max(objects, 1),
    )
