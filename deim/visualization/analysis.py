"""Figures of the error analysis."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from deim.analysis import Curve
from deim.visualization.figures import class_colors

# Maximum number of class names that are readable beside a matrix or curve.
_READABLE = 40


def precision_recall_figure(curves: Sequence[Curve], class_names: Sequence[str]) -> Figure:
    """Plot the precision-recall curve of each class that has objects, and their mean."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    shown = [(name, curve) for name, curve in zip(class_names, curves, strict=True) if curve.objects]
    recalls = np.linspace(0, 1, 101)
    for (name, curve), color in zip(shown, class_colors([name for name, _ in shown]), strict=True):
        few = len(shown) <= 12
        axes.plot(
            curve.recall,
            curve.precision,
            color=color,
            linewidth=1,
            alpha=0.9 if few else 0.4,
            label=name if few else None,
        )
    if shown:
        mean = np.mean([interpolated(curve, recalls) for _, curve in shown], axis=0)
        axes.plot(recalls, mean, color="black", linewidth=2, label="mean")
        axes.legend(fontsize=8)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Precision and recall at IoU 0.5")
    axes.grid(alpha=0.3)
    return figure


def interpolated(curve: Curve, recalls: np.ndarray) -> np.ndarray:
    """Return the maximum precision at each recall or higher, as in the definition of AP."""
    if not len(curve.recall):
        return np.zeros_like(recalls)
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    place = np.searchsorted(curve.recall, recalls)
    return np.where(place < len(best), best[np.minimum(place, len(best) - 1)], 0.0)


def confusion_figure(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Plot the confusion matrix: counts, colored by the fraction of the row.

    If there are more than 40 classes, only the most confused ones are shown.
    """
    names, matrix = _most_confused(matrix, class_names)
    side = max(4.5, 0.32 * len(matrix) + 2.5)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names) + 1), [*names, "not detected"], rotation=90, fontsize=8)
    axes.set_yticks(range(len(names) + 1), [*names, "background"], fontsize=8)
    axes.set(xlabel="detected class", ylabel="ground truth")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        dark = shares[row, column] > 0.5
        axes.text(
            column, row, matrix[row, column], ha="center", va="center", fontsize=7, color="white" if dark else "black"
        )
    figure.colorbar(shown, ax=axes, shrink=0.8, label="fraction of the row")
    return figure


def _most_confused(matrix: np.ndarray, class_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    if len(class_names) <= _READABLE:
        return list(class_names), matrix
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1))[:-1], kind="stable")[:_READABLE]
    kept = sorted(order.tolist())
    return [class_names[index] for index in kept], matrix[np.ix_([*kept, -1], [*kept, -1])]


def bars_figure(values: Mapping[str, float], title: str, unit: str) -> Figure:
    """Plot one horizontal bar per name, in order from the top."""
    figure = Figure(figsize=(7, 0.24 * max(len(values), 4) + 1), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(values))[::-1]
    axes.barh(places, list(values.values()), color="tab:blue")
    axes.set_yticks(places, list(values), fontsize=8)
    for place, value in zip(places, values.values(), strict=True):
        axes.text(value, place, f" {value:.4g}", va="center", fontsize=8)
    axes.set(xlabel=unit, title=title)
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)
    return figure
