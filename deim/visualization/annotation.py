"""Drawing of boxes and labels into images."""

import functools
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont


def annotate(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], colors: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Return a copy of an image, at its own resolution, with boxes and labels.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (N, 4) XYXY in pixels; the last box is drawn on top.
        labels, colors: label and color of each box; colors are RGB in [0, 255].
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    # Line width and font size scale with the image, so that boxes are readable at any resolution.
    scale = max(image.shape[:2]) / 640
    width, font = max(round(2 * scale), 1), _font(max(round(12 * scale), 9))
    for box, label, color in zip(boxes.tolist(), labels, colors, strict=True):
        draw.rectangle(_ordered_corners(box), outline=color, width=width)
        if label:
            _draw_label(draw, box, label, color, font)
    return np.asarray(canvas)


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
