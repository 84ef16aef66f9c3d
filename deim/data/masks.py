"""Masks of objects: compact storage of polygons and run-length encodings (RLE), clipping and rasterization."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from deim.errors import DatasetError


@dataclass(frozen=True)
class MaskArrays:
    """Masks of N objects in a few arrays, which worker processes share.

    An object has polygons, whose union is its mask, or an RLE. An object with neither has an empty mask.

    Attributes:
        points: (M, 2) float32, the points of all polygons, in pixels.
        polygon_ends: (K,) int64, the end of each polygon in ``points``.
        object_ends: (N,) int64, the end of each object in ``polygon_ends``.
        rle_bytes: (R,) uint8, the counts of all RLEs in COCO's compressed form.
        rle_ends: (N,) int64, the end of each object in ``rle_bytes``.
        rle_sizes: (N, 2) int64, (height, width) of each RLE; 0 without an RLE.
    """

    points: np.ndarray
    polygon_ends: np.ndarray
    object_ends: np.ndarray
    rle_bytes: np.ndarray
    rle_ends: np.ndarray
    rle_sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.object_ends)

    def __getitem__(self, item: slice) -> "MaskArrays":
        """Return the masks of a range of objects, as views of the arrays."""
        start, stop, _ = item.indices(len(self))
        first_polygon, end_polygon = _start(self.object_ends, start), _start(self.object_ends, stop)
        first_point, end_point = _start(self.polygon_ends, first_polygon), _start(self.polygon_ends, end_polygon)
        first_byte, end_byte = _start(self.rle_ends, start), _start(self.rle_ends, stop)
        return MaskArrays(
            self.points[first_point:end_point],
            self.polygon_ends[first_polygon:end_polygon] - first_point,
            self.object_ends[start:stop] - first_polygon,
            self.rle_bytes[first_byte:end_byte],
            self.rle_ends[start:stop] - first_byte,
            self.rle_sizes[start:stop],
        )

    @property
    def has_rle(self) -> np.ndarray:
        """(N,) bool: whether the mask of an object is an RLE."""
        return np.diff(self.rle_ends, prepend=0) > 0

    def rle(self, number: int) -> dict[str, Any]:
        """Return the RLE of an object in the form of pycocotools."""
        counts = self.rle_bytes[_start(self.rle_ends, number) : self.rle_ends[number]]
        return {"size": self.rle_sizes[number].tolist(), "counts": counts.tobytes()}

    @staticmethod
    def cat(parts: Sequence["MaskArrays"]) -> "MaskArrays":
        """Concatenate the masks of several images."""
        parts = [_NO_MASKS, *parts]
        return MaskArrays(
            np.concatenate([part.points for part in parts]),
            concatenate_ends([part.polygon_ends for part in parts], [len(part.points) for part in parts]),
            concatenate_ends([part.object_ends for part in parts], [len(part.polygon_ends) for part in parts]),
            np.concatenate([part.rle_bytes for part in parts]),
            concatenate_ends([part.rle_ends for part in parts], [len(part.rle_bytes) for part in parts]),
            np.concatenate([part.rle_sizes for part in parts]),
        )


def _start(ends: np.ndarray, index: int) -> int:
    return int(ends[index - 1]) if index > 0 else 0


def concatenate_ends(ends: Sequence[np.ndarray], lengths: Sequence[int]) -> np.ndarray:
    """Concatenate arrays of ends, each relative to its own array.

    Args:
        ends: ends of each part.
        lengths: length of the array that the ends of each part refer to.
    """
    offsets = np.cumsum([0, *lengths[:-1]])
    return np.concatenate(ends) + np.repeat(offsets, [len(part) for part in ends])


_NO_MASKS = MaskArrays(
    np.zeros((0, 2), np.float32),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.uint8),
    np.zeros(0, np.int64),
    np.zeros((0, 2), np.int64),
)


def mask_arrays(
    segmentations: Sequence[Any], locations: Sequence[str], size: tuple[int, int] | None = None
) -> MaskArrays:
    """Return the masks of the objects of an image.

    Args:
        segmentations: ``segmentation`` of each object: polygons [x0, y0, x1, y1, ...], an RLE of COCO, compressed or
            not, or None. As in detectron2, polygons with fewer than three points or an odd number of coordinates are
            dropped. An object without valid polygons has an empty mask.
        locations: location of each object, for error messages.
        size: (height, width) of the image, if it is known.

    Raises:
        DatasetError: if a segmentation has another form, contains NaN/Inf, or is an RLE of another size.
    """
    polygon_lengths: list[int] = []
    polygons_per_object, coordinates, rles = [], [np.zeros(0)], []
    for segmentation, location in zip(segmentations, locations, strict=True):
        counts, polygons = b"", []
        rle_size = (0, 0)
        if isinstance(segmentation, dict):
            counts, rle_size = _compressed_rle(segmentation, size, location)
        elif segmentation is not None:
            polygons = _valid_polygons(segmentation, location)
            coordinates.append(_to_array(polygons, location))
        polygon_lengths += [len(polygon) // 2 for polygon in polygons]
        polygons_per_object.append(len(polygons))
        rles.append((counts, rle_size))
    return MaskArrays(
        np.concatenate(coordinates).astype(np.float32).reshape(-1, 2),
        np.cumsum(polygon_lengths, dtype=np.int64),
        np.cumsum(polygons_per_object, dtype=np.int64),
        np.frombuffer(b"".join(counts for counts, _ in rles), np.uint8),
        np.cumsum([len(counts) for counts, _ in rles], dtype=np.int64),
        np.array([rle_size for _, rle_size in rles], dtype=np.int64).reshape(-1, 2),
    )


def _valid_polygons(segmentation: Any, location: str) -> list[Any]:
    if not isinstance(segmentation, (list, tuple)) or not all(
        isinstance(polygon, (list, tuple, np.ndarray)) for polygon in segmentation
    ):
        raise DatasetError(
            f"{location}: segmentation is {_shorten(segmentation)}; it must be a list of polygons [x0, y0, x1, y1, ...] "
            "or an RLE with the keys 'size' and 'counts'"
        )
    polygons = [polygon.reshape(-1) if isinstance(polygon, np.ndarray) else polygon for polygon in segmentation]
    return [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]


def _to_array(polygons: Sequence[Any], location: str) -> np.ndarray:
    try:
        array = np.fromiter(itertools.chain.from_iterable(polygons), np.float64, sum(map(len, polygons)))
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{location}: a polygon contains something that is not a number: {error}") from error
    if not (np.abs(array) < _MAX_COORDINATE).all():
        raise DatasetError(
            f"{location}: a polygon contains NaN/Inf or a coordinate of more than {_MAX_COORDINATE:,.0f}"
        )
    return array


# The error of larger coordinates in float32 exceeds half a pixel.
_MAX_COORDINATE = 1e7


def _compressed_rle(rle: dict, size: tuple[int, int] | None, location: str) -> tuple[bytes, tuple[int, int]]:
    """Return the compressed counts of an RLE and its (height, width)."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, (bytes, str)):
            compressed = counts.encode("ascii") if isinstance(counts, str) else counts
            runs = run_lengths(compressed)
        else:
            compressed, runs = None, np.array(counts, dtype=np.int64).reshape(-1)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{location}: segmentation is not a valid RLE ({error!r})") from error
    if size is not None and (height, width) != tuple(size):
        raise DatasetError(
            f"{location}: the mask is {width} x {height} (width x height), but the image is {size[1]} x {size[0]}"
        )
    if (runs < 0).any() or runs.sum() != height * width:
        raise DatasetError(
            f"{location}: the RLE has {runs.sum()} pixels, but its size is {width} x {height} (width x height)"
        )
    if compressed is None:
        compressed = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)["counts"]
    return compressed, (height, width)


def run_lengths(counts: bytes) -> np.ndarray:
    """Return the run lengths (K,) int64 of COCO's compressed counts.

    A number consists of groups of 5 bits, lowest first, one character per group. From the fourth number on, the
    difference from the number two places before is stored.

    Raises:
        ValueError: if the counts are malformed.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    is_last = (codes & 32) == 0
    if not len(codes):
        return codes
    if codes.min() < 0 or codes.max() > 63 or not is_last[-1]:
        raise ValueError("malformed counts")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:
        raise ValueError("malformed counts")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def decode_columns(rle: dict[str, Any], start: int, stop: int) -> np.ndarray:
    """Decode some columns of an RLE, several times faster than pycocotools decodes all of them.

    Args:
        rle: RLE in the form of pycocotools, with compressed counts.
        start, stop: first column, and the column after the last one.

    Returns:
        (stop - start, height) uint8.
    """
    height = rle["size"][0]
    ends = np.cumsum(run_lengths(rle["counts"])).clip(start * height, stop * height)
    values = (np.arange(len(ends)) % 2).astype(np.uint8)
    return np.repeat(values, np.diff(ends, prepend=start * height)).reshape(stop - start, height)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def clip_polygon(points: np.ndarray, low: Iterable[float], high: Iterable[float]) -> np.ndarray:
    """Clip a polygon to a rectangle (Sutherland and Hodgman, Communications of the ACM 17, 1974).

    Where the rectangle divides a polygon into several parts, edges of no area along the rectangle connect the parts.

    Args:
        points: (K, 2) x, y.
        low, high: x, y of the top left and the bottom right corner.

    Returns:
        (L, 2); empty if the polygon is outside of the rectangle.
    """
    for axis, bounds in enumerate(zip(low, high, strict=True)):
        for bound, sign in zip(bounds, (1, -1), strict=True):
            distances = sign * (points[:, axis] - bound)
            is_inside = distances >= 0
            if is_inside.all():
                continue
            next_points, next_distances = np.roll(points, -1, axis=0), np.roll(distances, -1)
            crosses = is_inside != np.roll(is_inside, -1)
            with np.errstate(divide="ignore", invalid="ignore"):
                fractions = distances / (distances - next_distances)
                crossings = points + fractions[:, None] * (next_points - points)
            crossings[:, axis] = bound
            chosen = np.stack([is_inside, crosses], axis=1).reshape(-1)
            points = np.stack([points, crossings], axis=1).reshape(-1, 2)[chosen]
    return points


def rasterize(polygons: Sequence[Sequence[np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Rasterize the masks of objects with the rasterizer of COCO, as detectron2 does.

    Args:
        polygons: for each object, its polygons (K, 2) in pixels.
        size: (height, width) of the masks.

    Returns:
        (N, height, width) bool.
    """
    masks = np.zeros((len(polygons), *size), dtype=bool)
    for mask, object_polygons in zip(masks, polygons, strict=True):
        if len(object_polygons):
            _draw(mask, [_limit(polygon, size) for polygon in object_polygons])
    return masks


def _draw(mask: np.ndarray, polygons: Sequence[np.ndarray]) -> None:
    """Draw the union of polygons into an empty mask, in place.

    Only the window around the polygons is rasterized: COCO's rasterizer stores the columns of a mask one after the other,
    and copying such a mask takes longer than rasterizing. Its rounding is the same in every window, except for negative
    coordinates. The window therefore starts at 0 if there are any.
    """
    points = np.concatenate(polygons)
    left, top = np.maximum(np.floor(points.min(axis=0)), 0).astype(np.int64).tolist()
    right, bottom = np.minimum(np.ceil(points.max(axis=0)) + 1, mask.shape[::-1]).astype(np.int64).tolist()
    if left >= right or top >= bottom:
        return
    shifted = [(polygon - (left, top)).reshape(-1) for polygon in polygons]
    rles = coco_mask.frPyObjects(shifted, bottom - top, right - left)
    mask[top:bottom, left:right] = coco_mask.decode(rles[0] if len(rles) == 1 else coco_mask.merge(rles))


def _limit(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip a polygon that extends far beyond the mask: the rasterizer follows every pixel of its edges."""
    height, width = size
    if np.abs(polygon).max() <= 8 * max(height, width):
        return polygon
    clipped = clip_polygon(polygon, (-1, -1), (width + 1, height + 1))
    # The rasterizer needs three points; a polygon outside of the mask becomes a point outside of the mask.
    return clipped if len(clipped) >= 3 else np.full((3, 2), -1.0)
