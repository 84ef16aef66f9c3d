"""Plots of D-FINE's box distributions: one distribution per edge, refined layer by layer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deim.visualization.figures import save

EDGES = ("left", "top", "right", "bottom")


def draw_distributions(
    image: np.ndarray,
    objects: Sequence[tuple[str, np.ndarray, np.ndarray]],
    bin_values: np.ndarray,
    output: str | Path,
) -> None:
    """Plot the boxes and the four edge distributions of each object after each layer, from light to dark, as a PNG.

    Args:
        image: (H, W, 3) RGB uint8.
        objects: caption, boxes (L, 4) XYXY in pixels, and probabilities (L, 4, N) of the edges in the order of
            :data:`EDGES`, for each object.
        bin_values: (N,) W(n), the outward offset of an edge from the initial box in bin n, in units of
            ``side / reg_scale``; see :func:`deim.structures.distribution.weighting_function`.
        output: path of the PNG file.
    """
    figure = Figure(figsize=(15, 2.9 * len(objects)), layout="constrained")
    axes = figure.subplots(len(objects), 5, squeeze=False, width_ratios=[1.25, 1, 1, 1, 1])
    for row, (caption, boxes, probabilities) in zip(axes, objects, strict=True):
        colors = colormaps["viridis_r"](np.linspace(0.1, 1, len(boxes)))
        row[0].imshow(image)
        row[0].set_title(caption, fontsize=9)
        row[0].axis("off")
        for (left, top, right, bottom), color in zip(boxes.tolist(), colors, strict=True):
            row[0].add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=1.5)
            )
        for edge, name in enumerate(EDGES):
            panel = row[edge + 1]
            for layer, color in enumerate(colors):
                panel.plot(bin_values, probabilities[layer, edge], color=color, label=f"layer {layer + 1}")
            panel.axvline(0, color="gray", linewidth=0.6)
            panel.set(title=f"{name} edge", xlabel="W(n), outward", ylim=(0, None))
            panel.set_xscale("symlog", linthresh=0.02)
            panel.tick_params(labelsize=7)
    axes[0][1].legend(fontsize=7)
    save(figure, output)
