"""Precision and recall over the threshold, and the threshold that is best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deim.analysis.judging import CORRECT, IGNORED, Found, Judged


@dataclass(frozen=True)
class Curve:
    """Of one class.

    Attributes:
        objects: how many there are.
        scores: (D,) of its detections, best first: the thresholds at which the values below hold.
        precision, recall: (D,).
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
        """The place of the best F1; None if nothing of the class was found or is there."""
        return int(self.f1.argmax()) if len(self.scores) and self.objects else None

    def f1_at(self, threshold: float) -> float:
        """F1 of the detections with at least this score."""
        count = int((self.scores >= threshold).sum())
        return float(self.f1[count - 1]) if count else 0.0


def curves_of_classes(found: Sequence[Found], judged: Sequence[Judged], num_classes: int) -> list[Curve]:
    """One curve for each class."""
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
    """The threshold at which the mean F1 of the classes is highest; 0.5 if nothing was found."""
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
