"""Conversion of annotation-tool shapes to boxes and COCO segmentations."""

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

from deim.data.masks import rasterize

# Maximum size of a decompressed mask, in bytes.
_MAX_MASK_BYTES = 2**28
# Maximum number of characters of a number in compressed counts: 30 bits are enough for any image.
_MAX_CHARACTERS = 6
_ELLIPSE_CORNERS = 36  # of the polygon that approximates an ellipse


@dataclass(frozen=True)
class Region:
    """Box and optional segmentation of an object.

    Attributes:
        box: XYXY in pixels.
        segmentation: as in COCO, polygons ``[[x, y, x, y, ...], ...]`` or a compressed run-length encoding; None if
            the region is a box.
    """

    box: list[float]
    segmentation: list[list[float]] | dict[str, Any] | None = None


def rectangle(left: float, top: float, right: float, bottom: float) -> Region:
    """Return the box with the given opposite corners, in any order."""
    numbers = [float(value) for value in (left, top, right, bottom)]
    xs, ys = sorted(numbers[::2]), sorted(numbers[1::2])
    return Region([xs[0], ys[0], xs[1], ys[1]])


def polygon(points: Sequence[Sequence[float]]) -> Region:
    """Return the polygon with the given corners (N, 2).

    Raises:
        ValueError: if there are fewer than three points.
    """
    corners = np.array([[float(x), float(y)] for x, y in points])
    if len(corners) < 3:
        raise ValueError(f"a polygon has {len(corners)} points, fewer than three")
    return Region([*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()], [corners.reshape(-1).tolist()])


def polygon_with_holes(
    points: Sequence[Sequence[float]], holes: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]
) -> Region:
    """Return the polygon with the given corners (N, 2) without its holes, as a run-length encoding.

    Polygons of a COCO segmentation cannot have holes: they are united.

    Args:
        points: corners of the polygon.
        holes: corners of each hole.
        size: (height, width) of the image.

    Raises:
        ValueError: if the polygon or a hole has fewer than three points.
    """
    outer, *_ = (polygon(corners) for corners in (points, *holes))
    corners = [np.array(outline, dtype=np.float64) for outline in (points, *holes)]
    covered, removed = rasterize([corners[:1], corners[1:]], size)
    pixels = np.asfortranarray(covered & ~removed, dtype=np.uint8)
    return Region(outer.box, _with_text_counts(coco_masks.encode(pixels)))


def polygon_area(corners: np.ndarray) -> float:
    """Return the area of the polygon with the given corners (N, 2)."""
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def rotated_box(left: float, top: float, right: float, bottom: float, degrees: float) -> Region:
    """Return a box rotated clockwise around its center: a polygon, or a box if ``degrees`` is 0."""
    if not degrees:
        return rectangle(left, top, right, bottom)
    x, y = (left + right) / 2, (top + bottom) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((left - x, top - y), (right - x, top - y), (right - x, bottom - y), (left - x, bottom - y))
    return polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners])


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Region:
    """Return an ellipse, rotated clockwise: its exact bounding box and a polygon of 36 corners.

    Args:
        x, y: center.
        rx, ry: radii.
        degrees: clockwise rotation.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dx, dy = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    angles = [2 * math.pi * i / _ELLIPSE_CORNERS for i in range(_ELLIPSE_CORNERS)]
    points = [(rx * math.cos(t), ry * math.sin(t)) for t in angles]
    outline = polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in points])
    return Region([x - dx, y - dy, x + dx, y + dy], outline.segmentation)


def mask_region(pixels: np.ndarray, left: int, top: int, size: tuple[int, int] | None) -> Region:
    """Return the region that a mask covers in an image.

    Args:
        pixels: (h, w) bool.
        left, top: position of the mask's upper left corner in the image.
        size: (height, width) of the image; if None, the region has only a box.

    Raises:
        ValueError: if the mask is empty.
    """
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        raise ValueError("the mask is empty")
    box = [left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1]
    encoded = None if size is None else _encode_mask(pixels, left, top, size)
    return Region([float(value) for value in box], encoded)


def _encode_mask(pixels: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any] | None:
    height, width = size
    if left < 0 or top < 0 or left + pixels.shape[1] > width or top + pixels.shape[0] > height:
        return None
    full_mask = np.zeros((height, width), np.uint8, order="F")
    full_mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return _with_text_counts(coco_masks.encode(full_mask))


def decode_run_lengths(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decode run lengths to a (height, width) bool mask; runs are row-major and start with background pixels.

    Raises:
        ValueError: if the run lengths do not add up to the mask size.
    """
    if height * width > _MAX_MASK_BYTES or any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"the run lengths of a mask do not add up to {width} x {height} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)


def decode_mask_image(text: str, compressed: bool = False) -> np.ndarray:
    """Decode a base64-encoded image to a (h, w) bool mask.

    The mask contains the pixels with nonzero alpha or, for an image without an alpha channel, the non-black pixels.

    Args:
        text: base64-encoded image file.
        compressed: whether the image file is zlib-compressed inside the base64 encoding.

    Raises:
        ValueError: if the mask cannot be decoded.
    """
    try:
        data = base64.b64decode(text, validate=False)
        if compressed:
            data = zlib.decompressobj().decompress(data, _MAX_MASK_BYTES)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (binascii.Error, zlib.error, cv2.error) as error:
        raise ValueError(f"the mask cannot be decoded: {error}") from error
    if image is None:
        raise ValueError("the mask is not a valid image")
    if image.ndim == 2:
        return image > 0
    values = image[..., 3] if image.shape[2] == 4 else image.max(axis=2)
    return values > 0


def coco_region(segmentation: Any) -> Region:
    """Convert a COCO ``segmentation``: polygons, or a run-length encoding, compressed or uncompressed.

    Raises:
        ValueError: if the segmentation has another format or is empty.
    """
    if isinstance(segmentation, dict):
        return _rle_region(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("the segmentation is empty")
    point_lists = segmentation if isinstance(segmentation[0], list) else [segmentation]
    polygons = [[float(value) for value in points] for points in point_lists]
    polygons = [points for points in polygons if len(points) >= 6 and len(points) % 2 == 0]
    if not polygons:
        raise ValueError("the segmentation has no polygon with at least three points")
    corners = np.concatenate([np.array(points).reshape(-1, 2) for points in polygons])
    return Region([*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()], polygons)


def compress_runs(segmentation: dict[str, Any]) -> dict[str, Any]:
    """Return a COCO run-length encoding, compressed or uncompressed, in compressed form with binary counts.

    pycocotools does not check counts: it reads and writes outside of its memory if they are malformed.

    Raises:
        ValueError: if the size or the counts are malformed.
    """
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(n, int) and 0 < n < 2**15 for n in size):
        raise ValueError(f"the segmentation has an invalid size {size!r}")
    height, width = size
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
            raise ValueError("the segmentation counts do not add up to its size")
        return coco_masks.frPyObjects({"counts": counts, "size": size}, height, width)
    if isinstance(counts, str) and counts.isascii():
        counts = counts.encode()
    if not isinstance(counts, bytes):
        raise ValueError("the segmentation counts are neither a list of numbers nor a string")
    lengths = _decode_counts(counts)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError("the segmentation counts do not add up to its size")
    return {"counts": counts, "size": size}


def _decode_counts(counts: bytes) -> np.ndarray:
    """Return the run lengths of compressed counts.

    A character holds five bits of a number, the lowest first, and a bit that is set if the number continues. The last
    character of a number contains its sign. From the fourth number on, a number is a difference: the run length minus
    the run length two positions before.

    Raises:
        ValueError: if a character is invalid or the last number is incomplete.
    """
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    is_last = (characters & 32) == 0
    if not len(characters) or characters.min() < 0 or characters.max() > 63 or not is_last[-1]:
        raise ValueError("the segmentation counts are malformed")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > _MAX_CHARACTERS - 1:
        raise ValueError("the segmentation counts are malformed")
    shifts = 5 * (np.arange(len(characters)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((characters & 31) << shifts, starts)
    numbers -= np.where(characters[ends] & 16, 1 << (5 * (ends - starts + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _rle_region(segmentation: dict[str, Any]) -> Region:
    runs = compress_runs(segmentation)
    height, width = runs["size"]
    x, y, w, h = coco_masks.toBbox(runs).tolist()
    if not 0 <= x <= x + w <= width or not 0 <= y <= y + h <= height or w * h <= 0:
        raise ValueError("the segmentation mask is empty or exceeds its size")
    return Region([x, y, x + w, y + h], _with_text_counts(runs))


def _with_text_counts(runs: dict[str, Any]) -> dict[str, Any]:
    counts = runs["counts"]
    return {
        "size": [int(side) for side in runs["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
