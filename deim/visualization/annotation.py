"""Drawing of boxes, labels, masks and keypoints into images."""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

# Opacity of masks.
_OPACITY = 0.45


def annotate(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    masks: Sequence[np.ndarray | None] | None = None,
    keypoints: Sequence[np.ndarray | None] | None = None,
    connections: Sequence[tuple[int, int]] = (),
) -> np.ndarray:
    """Return a copy of an image, at its own resolution, with boxes and labels, and with masks and keypoints if given.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (N, 4) XYXY in pixels; the last box is drawn on top.
        labels, colors: label and color of each box; colors are RGB in [0, 255].
        masks: (H, W) bool mask of each box, or None; None for no masks.
        keypoints: (P, 3) keypoints of each box: x, y in pixels, score or visibility; those with 0 are omitted. None for no
            keypoints.
        connections: pairs of indices of keypoints that are connected by a line.
    """
    if masks is not None:
        image = _blend_masks(image, masks, colors)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    # Line width and font size scale with the image, so that boxes are readable at any resolution.
    scale = max(image.shape[:2]) / 640
    width, font = max(round(2 * scale), 1), _font(max(round(12 * scale), 9))
    for box, label, color in zip(boxes.tolist(), labels, colors, strict=True):
        draw.rectangle(_ordered_corners(box), outline=color, width=width)
        if label:
            _draw_label(draw, box, label, color, font)
    if keypoints is not None:
        for points, color in zip(keypoints, colors, strict=True):
            if points is not None:
                _draw_keypoints(draw, points, connections, color, width)
    return np.asarray(canvas)


def _blend_masks(
    image: np.ndarray, masks: Sequence[np.ndarray | None], colors: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Return a copy of an image with translucent masks and their contours."""
    blended = image.copy()
    for mask, color in zip(masks, colors, strict=True):
        if mask is None or not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        # Only the surroundings of the mask are read and written.
        part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        region, inside = blended[part], np.ascontiguousarray(mask[part])
        region[inside] = (region[inside] * (1 - _OPACITY) + np.array(color) * _OPACITY).round().astype(np.uint8)
        contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            x, y = contour[:, 0].T
            region[y, x] = color
    return blended


def _draw_keypoints(
    draw: ImageDraw.ImageDraw,
    points: np.ndarray,
    connections: Sequence[tuple[int, int]],
    color: tuple[int, int, int],
    width: int,
) -> None:
    """Draw a skeleton: lines between connected keypoints, and dots with a white rim."""
    # Pillow's pixel 0 is centered at 0; that of keypoints is centered at 0.5.
    positions = (points[:, :2] - 0.5).tolist()
    visible = (points[:, 2] > 0).tolist()
    for first, second in connections:
        if visible[first] and visible[second]:
            draw.line([*positions[first], *positions[second]], fill=color, width=width)
    radius = 1.5 * width
    for (x, y), is_visible in zip(positions, visible, strict=True):
        if is_visible:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color, outline="white")


def class_color(index: int) -> tuple[int, int, int]:
    """Return the RGB color of a class: different for neighboring indices, and the same in every image."""
    # Steps of the golden ratio spread any number of hues evenly.
    hue = index * 0.618033988749895 % 1.0
    red, green, blue = (np.clip(np.abs((hue * 6 + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2))
    return int(55 + 200 * red), int(55 + 200 * green), int(55 + 200 * blue)


def _ordered_corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left, top, max(left, right), max(top, bottom)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    label: str,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Draw a label above the box, or inside it if there is no space above; always within the image."""
    _, _, width, height = draw.textbbox((0, 0), label, font=font)
    right, bottom = draw.im.size
    left = max(min(box[0], right - width - 4), 0)
    top = box[1] - height - 2 if box[1] >= height + 2 else max(min(box[1], bottom - height - 2), 0)
    draw.rectangle((left, top, left + width + 4, top + height + 2), fill=color)
    is_bright = sum(weight * channel for weight, channel in zip((0.3, 0.6, 0.1), color, strict=True)) > 110
    draw.text((left + 2, top), label, fill="black" if is_bright else "white", font=font)


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's font, which supports more scripts than PIL's."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
