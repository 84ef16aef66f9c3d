"""Plots of boxes, masks and keypoints on images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle
from pycocotools import mask as coco_masks

from deim.visualization.figures import class_colors, grid, save

_MASK_OPACITY = 0.45


def draw_objects(
    images: Sequence[np.ndarray],
    objects: Sequence[tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    output: str | Path,
    titles: Sequence[str] = (),
    columns: int = 4,
    masks: Sequence[Sequence[Any]] = (),
    keypoints: Sequence[np.ndarray | None] = (),
    connections: Sequence[tuple[int, int]] = (),
) -> None:
    """Draw a grid of images with their objects as a PNG.

    Args:
        images: (H, W, 3) RGB uint8.
        objects: boxes (N, 4) XYXY and classes (N,) of each image; boxes of classes without a name are omitted.
        class_names: names of the classes.
        output: path of the PNG file.
        titles: titles of the images; none by default.
        columns: images per row.
        masks: masks of the objects of each image, see :func:`draw_mask`, or None; none by default.
        keypoints: (N, P, 3) x, y in pixels and visibility of each image, or None; none by default. Hidden keypoints
            (visibility 1) are drawn as rings, those with visibility 0 are omitted.
        connections: pairs of indices of keypoints that are connected by a line.
    """
    figure, axes = grid(len(images), columns)
    colors = class_colors(class_names)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=6)
    for number, (axis, image, (boxes, classes)) in enumerate(zip(axes, images, objects, strict=False)):
        axis.imshow(image)
        image_masks = masks[number] if masks else [None] * len(boxes)
        image_keypoints = keypoints[number] if keypoints else None
        for position, (box, index) in enumerate(zip(boxes.tolist(), classes.tolist(), strict=True)):
            if not 0 <= index < len(class_names):
                continue
            if image_masks[position] is not None:
                draw_mask(axis, image_masks[position], colors[index])
            if image_keypoints is not None:
                draw_keypoints(axis, image_keypoints[position], connections, colors[index])
            _draw_box(axis, box, colors[index], class_names[index])
    save(figure, output)


def draw_mask(axis: Axes, mask: Any, color: Sequence[float]) -> None:
    """Fill a mask with a translucent color.

    Args:
        axis: axes with an image.
        mask: polygons ``[x0, y0, x1, y1, ...]`` in pixels, a compressed run-length encoding, or a bool array (h, w) that
            covers the image.
        color: RGB or RGBA in [0, 1].
    """
    fill, mask = (*color[:3], _MASK_OPACITY), _decoded(mask)
    if isinstance(mask, np.ndarray) and mask.ndim == 2:
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask > 0] = fill
        axis.imshow(overlay, extent=axis.images[0].get_extent(), interpolation="nearest")
        return
    for polygon in mask:
        # Matplotlib's pixel 0 is centered at 0; the polygon's is centered at 0.5.
        axis.add_patch(Polygon(np.reshape(polygon, (-1, 2)) - 0.5, facecolor=fill, edgecolor="none"))


def _decoded(mask: Any) -> Any:
    """Return the pixels of a run-length encoding; other masks are unchanged."""
    return coco_masks.decode(mask) > 0 if isinstance(mask, Mapping) else mask


def _draw_outline(axis: Axes, mask: Any) -> None:
    """Draw the outline of a mask of :func:`draw_mask` as a white dashed line."""
    if mask is None:
        return
    mask = _decoded(mask)
    if isinstance(mask, np.ndarray) and mask.ndim == 2:
        axis.contour(mask, levels=[0.5], colors="white", linestyles="--", linewidths=0.8)
        return
    for polygon in mask:
        corners = np.reshape(polygon, (-1, 2)) - 0.5
        axis.add_patch(Polygon(corners, fill=False, edgecolor="white", linestyle="--", linewidth=0.8))


def draw_keypoints(
    axis: Axes, points: np.ndarray, connections: Sequence[tuple[int, int]], color: Sequence[float]
) -> None:
    """Draw the keypoints of an object.

    Args:
        axis: axes with an image.
        points: (P, 3) x, y in pixels and visibility; 2 is drawn as a dot, 1 as a ring, 0 is omitted.
        connections: pairs of indices of keypoints that are connected by a line.
        color: RGB or RGBA in [0, 1].
    """
    points = np.asarray(points, dtype=float) - [0.5, 0.5, 0]
    for first, second in connections:
        if points[first, 2] > 0 and points[second, 2] > 0:
            ends = points[[first, second]]
            axis.plot(ends[:, 0], ends[:, 1], color=color, linewidth=1, scalex=False, scaley=False)
    for visibility, face in ((1, "none"), (2, color)):
        x, y, _ = points[points[:, 2] == visibility].T
        style: dict[str, Any] = {
            "markersize": 3.5,
            "markeredgewidth": 0.8,
            "markeredgecolor": "white",
            "markerfacecolor": face,
        }
        axis.plot(x, y, "o", scalex=False, scaley=False, **style)  # the limits remain those of the image


def draw_detections(
    images: Sequence[np.ndarray],
    ground_truth: Sequence[tuple[np.ndarray, np.ndarray]],
    detections: Sequence[Instances],
    class_names: Sequence[str],
    output: str | Path,
    threshold: float = 0.5,
    columns: int = 4,
    connections: Sequence[tuple[int, int]] = (),
    masks: Sequence[Sequence[Any]] = (),
    keypoints: Sequence[np.ndarray | None] = (),
) -> None:
    """Draw a grid of images as a PNG, ground truth in dashed white, detections in the color of their class.

    The masks and keypoints of the detections are drawn if there are any; those of the ground truth as white outlines and
    white dots.

    Args:
        images: (H, W, 3) RGB uint8.
        ground_truth: boxes (N, 4) XYXY and classes (N,) of each image.
        detections: predictions for each image, at the size of the image.
        class_names: names of the classes.
        output: path of the PNG file.
        threshold: detections with a lower score are omitted.
        columns: images per row.
        connections: pairs of indices of keypoints that are connected by a line.
        masks, keypoints: masks and keypoints of the ground truth, as in :func:`draw_objects`; none by default.
    """
    figure, axes = grid(len(images), columns)
    colors = class_colors(class_names)
    for number, (axis, image, (boxes, _), instances) in enumerate(
        zip(axes, images, ground_truth, detections, strict=False)
    ):
        axis.imshow(image)
        for box in boxes:
            _draw_box(axis, box, "white", linestyle="--")
        for mask in masks[number] if masks else ():
            _draw_outline(axis, mask)
        labeled = keypoints[number] if keypoints else None
        for points in () if labeled is None else labeled:
            draw_keypoints(axis, points, connections, (1.0, 1.0, 1.0))
        shown = instances[instances.scores >= threshold]
        boxes, scores, classes = shown.pred_boxes.tensor.tolist(), shown.scores.tolist(), shown.pred_classes.tolist()
        for position, (box, score, index) in enumerate(zip(boxes, scores, classes, strict=True)):
            if shown.has("pred_masks"):
                draw_mask(axis, shown.pred_masks[position].numpy(), colors[index])
            if shown.has("pred_keypoints"):
                points = shown.pred_keypoints[position].numpy().copy()
                points[:, 2] = 2  # predictions have a score instead of the visibility
                draw_keypoints(axis, points, connections, colors[index])
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
