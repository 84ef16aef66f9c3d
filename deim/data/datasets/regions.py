"""Boxes and outlines of the shapes that annotation tools know."""

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_masks

# The most bytes that a compressed mask may become.
_MAX_MASK_BYTES = 2**28
_CORNERS = 36  # of the polygon that stands for an ellipse


@dataclass(frozen=True)
class Region:
    """
    Attributes:
        box: XYXY in pixels.
        segmentation: As in COCO: polygons ``[[x, y, x, y, ...], ...]`` or a compressed run-length encoding; None if
            the region is a box.
    """

    box: list[float]
    segmentation: list[list[float]] | dict[str, Any] | None = None


def rectangle(left: float, top: float, right: float, bottom: float) -> Region:
    """A box by two opposite corners."""
    numbers = [float(value) for value in (left, top, right, bottom)]
    xs, ys = sorted(numbers[::2]), sorted(numbers[1::2])
    return Region([xs[0], ys[0], xs[1], ys[1]])


def polygon(points: Sequence[Sequence[float]]) -> Region:
    """A polygon by its corners (N, 2).

    Raises:
        ValueError: These are not at least three points.
    """
    corners = np.array([[float(x), float(y)] for x, y in points])
    if len(corners) < 3:
        raise ValueError(f"a polygon of {len(corners)} points")
    return Region([*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()], [corners.reshape(-1).tolist()])


def rotated(left: float, top: float, right: float, bottom: float, degrees: float) -> Region:
    """A box that is turned clockwise around its center."""
    if not degrees:
        return rectangle(left, top, right, bottom)
    x, y = (left + right) / 2, (top + bottom) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((left - x, top - y), (right - x, top - y), (right - x, bottom - y), (left - x, bottom - y))
    return polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners])


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Region:
    """An ellipse by its center and radii, turned clockwise: its exact box, and a polygon of 36 corners."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dx, dy = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    turns = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
    points = [(rx * math.cos(t), ry * math.sin(t)) for t in turns]
    outline = polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in points])
    return Region([x - dx, y - dy, x + dx, y + dy], outline.segmentation)


def mask(pixels: np.ndarray, left: int, top: int, size: tuple[int, int] | None) -> Region:
    """The pixels of a mask that lies in an image.

    Args:
        pixels: (h, w) bool.
        left, top: Where it lies.
        size: (height, width) of the image; without it the region has a box only.

    Raises:
        ValueError: The mask is empty.
    """
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        raise ValueError("the mask is empty")
    box = [left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1]
    encoded = None if size is None else _encoded(pixels, left, top, size)
    return Region([float(value) for value in box], encoded)


def _encoded(pixels: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any] | None:
    height, width = size
    if left < 0 or top < 0 or left + pixels.shape[1] > width or top + pixels.shape[0] > height:
        return None
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return _as_text(coco_masks.encode(whole))


def mask_of_runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """(height, width) bool of runs of pixels, row by row, beginning with those outside.

    Raises:
        ValueError: The runs do not fill the mask.
    """
    if height * width > _MAX_MASK_BYTES or any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"the runs of a mask of {width} x {height} pixels do not fill it")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)


def mask_of_picture(text: str, compressed: bool = False) -> np.ndarray:
    """(h, w) bool of a picture in base64: its opaque pixels, or those that are not black.

    Args:
        compressed: The picture is compressed by zlib before it is written in base64.

    Raises:
        ValueError: It cannot be decoded.
    """
    try:
        data = base64.b64decode(text, validate=False)
        if compressed:
            data = zlib.decompressobj().decompress(data, _MAX_MASK_BYTES)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (binascii.Error, zlib.error, cv2.error) as error:
        raise ValueError(f"the mask cannot be decoded: {error}") from error
    if picture is None:
        raise ValueError("the mask is not a picture")
    if picture.ndim == 2:
        return picture > 0
    opaque = picture[..., 3] if picture.shape[2] == 4 else picture.max(axis=2)
    return opaque > 0


def coco_region(segmentation: Any) -> Region:
    """The region of a ``segmentation`` of COCO: polygons, or a run-length encoding, compressed or not.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(segmentation, dict):
        return _coco_runs(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("the segmentation is empty")
    flat = segmentation if isinstance(segmentation[0], list) else [segmentation]
    polygons = [[float(value) for value in one] for one in flat]
    polygons = [one for one in polygons if len(one) >= 6 and len(one) % 2 == 0]
    if not polygons:
        raise ValueError("the segmentation has no polygon of three points")
    corners = np.concatenate([np.array(one).reshape(-1, 2) for one in polygons])
    return Region([*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()], polygons)


def _coco_runs(segmentation: dict[str, Any]) -> Region:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(n, int) and 0 < n < 2**15 for n in size):
        raise ValueError(f"the segmentation has the size {size!r}")
    height, width = size
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
            raise ValueError("the counts of the segmentation do not fill its size")
        runs = coco_masks.frPyObjects({"counts": counts, "size": size}, height, width)
    elif isinstance(counts, str) and counts.isascii():
        runs = {"counts": counts.encode(), "size": size}
    else:
        raise ValueError("the counts of the segmentation are neither numbers nor text")
    x, y, w, h = coco_masks.toBbox(runs).tolist()
    if not 0 <= x <= x + w <= width or not 0 <= y <= y + h <= height or w * h <= 0:
        raise ValueError("the mask of the segmentation is empty or leaves its size")
    return Region([x, y, x + w, y + h], _as_text(runs))


def _as_text(runs: dict[str, Any]) -> dict[str, Any]:
    counts = runs["counts"]
    return {
        "size": [int(side) for side in runs["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
