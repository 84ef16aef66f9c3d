"""Figures of the error analysis."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from deim.analysis import PrecisionRecallCurve
from deim.visualization.figures import class_colors

# Maximum number of class names that are readable beside a matrix or curve.
_MAX_CLASS_NAMES = 40


def precision_recall_figure(
    curves: Sequence[PrecisionRecallCurve], class_names: Sequence[str], overlap: str = "IoU"
) -> Figure:
    """Plot the precision-recall curve of each class that has objects, and their mean.

    Args:
        curves: curve of each class.
        class_names: names of the classes.
        overlap: name of the overlap by which detections and objects were matched, "IoU" or "OKS".
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    named_curves = [(name, curve) for name, curve in zip(class_names, curves, strict=True) if curve.num_objects]
    recalls = np.linspace(0, 1, 101)
    for (name, curve), color in zip(named_curves, class_colors([name for name, _ in named_curves]), strict=True):
        has_legend = len(named_curves) <= 12
        axes.plot(
            curve.recall,
            curve.precision,
            color=color,
            linewidth=1,
            alpha=0.9 if has_legend else 0.4,
            label=name if has_legend else None,
        )
    if named_curves:
        mean = np.mean([interpolate_precision(curve, recalls) for _, curve in named_curves], axis=0)
        axes.plot(recalls, mean, color="black", linewidth=2, label="mean")
        axes.legend(fontsize=8)
    axes.set(
        xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=f"Precision and recall at {overlap} 0.5"
    )
    axes.grid(alpha=0.3)
    return figure


def interpolate_precision(curve: PrecisionRecallCurve, recalls: np.ndarray) -> np.ndarray:
    """Return the maximum precision at each recall or higher, as in the definition of AP."""
    if not len(curve.recall):
        return np.zeros_like(recalls)
    max_precision = np.maximum.accumulate(curve.precision[::-1])[::-1]
    index = np.searchsorted(curve.recall, recalls)
    return np.where(index < len(max_precision), max_precision[np.minimum(index, len(max_precision) - 1)], 0.0)


def confusion_figure(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Plot the confusion matrix: counts, colored by the fraction of the row.

    If there are more than 40 classes, only the 40 most confused ones are shown; fractions still refer to all classes.
    """
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    classes = _most_confused_classes(matrix)
    names, shown = [class_names[index] for index in classes], np.ix_([*classes, -1], [*classes, -1])
    matrix, fractions = matrix[shown], fractions[shown]
    side = max(4.5, 0.32 * len(matrix) + 2.5)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names) + 1), [*names, "not detected"], rotation=90, fontsize=8)
    axes.set_yticks(range(len(names) + 1), [*names, "background"], fontsize=8)
    axes.set(xlabel="detected class", ylabel="ground truth")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        is_dark = fractions[row, column] > 0.5
        axes.text(
            column,
            row,
            matrix[row, column],
            ha="center",
            va="center",
            fontsize=7,
            color="white" if is_dark else "black",
        )
    figure.colorbar(image, ax=axes, shrink=0.8, label="fraction of the row")
    return figure


def _most_confused_classes(matrix: np.ndarray) -> list[int]:
    """Return the indices of up to 40 classes with the most errors, in ascending order."""
    errors = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-(errors.sum(axis=0) + errors.sum(axis=1))[:-1], kind="stable")[:_MAX_CLASS_NAMES]
    return sorted(order.tolist())


def bars_figure(values: Mapping[str, float], title: str, unit: str) -> Figure:
    """Plot one horizontal bar per name, in order from the top."""
    figure = Figure(figsize=(7, 0.24 * max(len(values), 4) + 1), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(values))[::-1]
    axes.barh(positions, list(values.values()), color="tab:blue")
    axes.set_yticks(positions, list(values), fontsize=8)
    for position, value in zip(positions, values.values(), strict=True):
        axes.text(value, position, f" {value:.4g}", va="center", fontsize=8)
    axes.set(xlabel=unit, title=title)
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)
    return figure
