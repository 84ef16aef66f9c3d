"""Shared helpers for figures."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def grid(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes for ``count`` images."""
    rows = max(-(-count // columns), 1)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    return figure, axes


def class_colors(class_names: Sequence[str]) -> np.ndarray:
    """Return (K, 4) RGBA colors, one per class."""
    return matplotlib.colormaps["hsv"](np.linspace(0, 1, len(class_names), endpoint=False))


def save(figure: Figure, output: str | Path) -> None:
    """Write a figure to ``output``, in the format of its suffix, or as a PNG if matplotlib does not support it."""
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    suffix = Path(output).suffix[1:].lower()
    is_supported = suffix in figure.canvas.get_supported_filetypes()
    figure.savefig(output, dpi=110, format=suffix if is_supported else "png")
