"""Plots of dataset statistics."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deim.visualization.figures import save


def draw_statistics(
    boxes: Sequence[np.ndarray], class_counts: np.ndarray, class_names: Sequence[str], output: str | Path
) -> None:
    """Plot histograms of classes, object sizes and objects per image as a PNG.

    Args:
        boxes: (N, 4) XYXY of each image.
        class_counts: (K,) objects of each class; the 40 most frequent classes are shown.
        class_names: names of the classes.
        output: path of the PNG file.
    """
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    classes, sizes, objects_per_image = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    order = np.argsort(-class_counts, kind="stable")[:40]
    classes.bar(range(len(order)), class_counts[order])
    classes.set_xticks(range(len(order)), [class_names[i] for i in order], rotation=90, fontsize=7)
    classes.set(ylabel="objects", title=f"classes ({len(order)} of {len(class_names)})")
    all_boxes = np.concatenate(boxes)
    sides = np.sqrt((all_boxes[:, 2:] - all_boxes[:, :2]).prod(axis=1).clip(min=0))
    if len(sides):
        sizes.hist(sides, bins=np.geomspace(1, max(float(sides.max()), 2.0), 40))
        sizes.set_xscale("log")
    for side in (32, 96):
        sizes.axvline(side, color="gray", linestyle="--", linewidth=1)
    sizes.set(xlabel="square root of the box area in pixels", title="object sizes (dashed: COCO small, medium, large)")
    counts = [len(image_boxes) for image_boxes in boxes]
    objects_per_image.hist(counts, bins=np.arange(max(counts) + 2) - 0.5 if max(counts) < 60 else 60)
    objects_per_image.set(xlabel="objects", ylabel="images", title="objects per image")
    save(figure, output)
