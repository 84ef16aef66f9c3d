"""Plots of boxes on images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.structures import Instances
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from deim.visualization.figures import class_colors, grid, save


def draw_objects(
    images: Sequence[np.ndarray],
    objects: Sequence[tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    output: str | Path,
    titles: Sequence[str] = (),
    columns: int = 4,
) -> None:
    """Draw a grid of images with their objects as a PNG.

    Args:
        images: (H, W, 3) RGB uint8.
        objects: boxes (N, 4) XYXY and classes (N,) of each image; boxes of classes without a name are omitted.
        class_names: names of the classes.
        output: path of the PNG file.
        titles: titles of the images; none by default.
        columns: images per row.
    """
    figure, axes = grid(len(images), columns)
    colors = class_colors(class_names)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=6)
    for axis, image, (boxes, classes) in zip(axes, images, objects, strict=False):
        axis.imshow(image)
        for box, index in zip(boxes.tolist(), classes.tolist(), strict=True):
            if 0 <= index < len(class_names):
                _draw_box(axis, box, colors[index], class_names[index])
    save(figure, output)


def draw_detections(
    images: Sequence[np.ndarray],
    ground_truth: Sequence[tuple[np.ndarray, np.ndarray]],
    detections: Sequence[Instances],
    class_names: Sequence[str],
    output: str | Path,
    threshold: float = 0.5,
    columns: int = 4,
) -> None:
    """Draw a grid of images as a PNG, ground truth in dashed white, detections in the color of their class.

    Args:
        images: (H, W, 3) RGB uint8.
        ground_truth: boxes (N, 4) XYXY and classes (N,) of each image.
        detections: predictions for each image, at the size of the image.
        class_names: names of the classes.
        output: path of the PNG file.
        threshold: detections with a lower score are omitted.
        columns: images per row.
    """
    figure, axes = grid(len(images), columns)
    colors = class_colors(class_names)
    for axis, image, (boxes, _), instances in zip(axes, images, ground_truth, detections, strict=False):
        axis.imshow(image)
        for box in boxes:
            _draw_box(axis, box, "white", linestyle="--")
        for box, score, index in zip(
            instances.pred_boxes.tensor.tolist(),
            instances.scores.tolist(),
            instances.pred_classes.tolist(),
            strict=True,
        ):
            if score >= threshold:
                _draw_box(axis, box, colors[index], f"{class_names[index]} {score:.2f}")
    figure.suptitle(f"dashed white: ground truth; colored: detections with score ≥ {threshold:g}", fontsize=9)
    save(figure, output)


def _draw_box(axis: Axes, box: Sequence[float], color: object, label: str = "", linestyle: str = "-") -> None:
    left, top, right, bottom = box
    axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linestyle=linestyle))
    if label:
        axis.text(
            left,
            top,
            label,
            fontsize=6,
            color="black",
            verticalalignment="bottom",
            bbox={"facecolor": color, "alpha": 0.7, "pad": 0.6, "edgecolor": "none"},
            clip_on=True,
        )
