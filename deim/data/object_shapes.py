"""Masks and keypoints of objects, which follow the transforms of their image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from detectron2.data.transforms import Transform
from pycocotools import mask as coco_mask

from deim.data.geometry import AffineTransform, PixelTransform
from deim.data.masks import MaskArrays, clip_polygon, concatenate_ends, decode_columns, rasterize


@dataclass
class _Bitmaps:
    """RLEs of some objects of an image, and the transforms to apply to them.

    Attributes:
        numbers: numbers of the objects.
        rles: RLEs in the form of pycocotools.
        transforms: transforms, in order.
    """

    numbers: list[int]
    rles: list[dict[str, Any]]
    transforms: list[Transform] = field(default_factory=list)


class ObjectShapes:
    """Masks and keypoints of the N objects of an image, which follow the transforms of the image.

    Every transform maps the points of all polygons and keypoints at once. Masks are rasterized once, in the end; RLEs are
    decoded and warped once, by the composed affine map. What a transform moves out of the image does not reappear.

    Args:
        masks: masks of the objects; None if only keypoints are needed.
        keypoints: (N, P, 3), x and y in pixels, visibility; None if only masks are needed.
        hflip_indices: (P,), see :func:`deim.data.keypoints.keypoint_hflip_indices`.

    Attributes:
        area_ratios: (N,) areas of the objects as fractions of the areas of their boxes; None if they are not needed.
    """

    def __init__(
        self,
        masks: MaskArrays | None = None,
        keypoints: np.ndarray | None = None,
        hflip_indices: np.ndarray | None = None,
    ):
        self._hflip_indices = hflip_indices
        self.area_ratios: np.ndarray | None = None
        self._num_objects = len(masks) if masks is not None else 0 if keypoints is None else len(keypoints)
        self._points = np.zeros((0, 2))
        self._polygon_ends = self._object_ends = np.zeros(0, np.int64)
        self._bitmaps: list[_Bitmaps] = []
        self._keypoints: np.ndarray | None = None  # (N, P, 2)
        self._visibility = np.zeros((0, 0))  # (N, P)
        if masks is not None:
            self._points = masks.points.astype(np.float64)
            self._polygon_ends, self._object_ends = masks.polygon_ends, masks.object_ends
            numbers = np.flatnonzero(masks.has_rle).tolist()
            if numbers:
                self._bitmaps.append(_Bitmaps(numbers, [masks.rle(number) for number in numbers]))
        if keypoints is not None:
            self._keypoints = keypoints[..., :2].astype(np.float64)
            self._visibility = keypoints[..., 2].astype(np.float64)

    def __len__(self) -> int:
        return self._num_objects

    @staticmethod
    def cat(parts: Sequence["ObjectShapes"]) -> "ObjectShapes":
        """Return the objects of several images that were placed on one canvas."""
        result = ObjectShapes(hflip_indices=parts[0]._hflip_indices)
        result._points = np.concatenate([part._points for part in parts])
        result._object_ends = concatenate_ends(
            [part._object_ends for part in parts], [len(part._polygon_ends) for part in parts]
        )
        result._polygon_ends = concatenate_ends(
            [part._polygon_ends for part in parts], [len(part._points) for part in parts]
        )
        for part in parts:
            for bitmaps in part._bitmaps:
                numbers = [number + result._num_objects for number in bitmaps.numbers]
                result._bitmaps.append(_Bitmaps(numbers, bitmaps.rles, list(bitmaps.transforms)))
            result._num_objects += len(part)
        keypoints = [part._keypoints for part in parts if part._keypoints is not None]
        if keypoints:
            result._keypoints = np.concatenate(keypoints)
            result._visibility = np.concatenate([part._visibility for part in parts])
        ratios = [part.area_ratios for part in parts if part.area_ratios is not None]
        result.area_ratios = np.concatenate(ratios) if ratios else None
        return result

    def transform(self, transform: Transform, size: tuple[int, int]) -> None:
        """Apply a transform of the image.

        A mirror image, such as a flip in one direction, exchanges left and right keypoints. detectron2 exchanges them
        only for horizontal flips.

        Args:
            transform: affine transform, or any transform of detectron2.
            size: (height, width) of the image before the transform.
        """
        if isinstance(transform, PixelTransform):
            return
        if not isinstance(transform, AffineTransform) or transform.extends_beyond_image:
            self._clip(size)
        for bitmaps in self._bitmaps:
            bitmaps.transforms.append(transform)
        if len(self._points):
            self._points = transform.apply_coords(self._points)
        if self._keypoints is not None:
            self._keypoints = transform.apply_coords(self._keypoints.reshape(-1, 2)).reshape(self._keypoints.shape)
            if is_mirroring(transform, size):
                assert self._hflip_indices is not None
                self._keypoints = self._keypoints[:, self._hflip_indices]
                self._visibility = self._visibility[:, self._hflip_indices]

    def _clip(self, size: tuple[int, int]) -> None:
        """Clip polygons to the image; keypoints outside of the image become unlabeled."""
        high = np.array(size[::-1])
        if self._keypoints is not None:
            self._visibility[~_is_inside(self._keypoints, size)] = 0
        if _is_inside(self._points, size).all():
            return
        clipped: list[np.ndarray] = []
        counts = []
        for polygons in self._polygons(range(len(self._object_ends))):
            parts = [clip_polygon(polygon, (0, 0), high) for polygon in polygons]
            parts = [part for part in parts if len(part) >= 3]
            clipped += parts
            counts.append(len(parts))
        self._points = np.concatenate([np.zeros((0, 2)), *clipped])
        self._polygon_ends = np.cumsum([len(part) for part in clipped], dtype=np.int64)
        self._object_ends = np.cumsum(counts, dtype=np.int64)

    def _polygons(self, numbers: Sequence[int]) -> list[list[np.ndarray]]:
        """Return the polygons (K, 2) of objects."""
        polygon_starts, object_starts = ([0, *ends.tolist()] for ends in (self._polygon_ends, self._object_ends))
        return [
            [
                self._points[polygon_starts[polygon] : polygon_starts[polygon + 1]]
                for polygon in range(object_starts[number], object_starts[number + 1])
            ]
            for number in numbers
        ]

    def polygons(self, is_kept: np.ndarray) -> list[list[Any]]:
        """Return the polygons of objects, each [x0, y0, x1, y1, ...] float64.

        Args:
            is_kept: (N,) bool, the objects to return.
        """
        numbers = np.flatnonzero(is_kept).tolist()
        return [[polygon.reshape(-1) for polygon in polygons] for polygons in self._polygons(numbers)]

    def bitmasks(self, is_kept: np.ndarray, size: tuple[int, int], stride: int = 1) -> np.ndarray:
        """Rasterize the masks of objects.

        Args:
            is_kept: (N,) bool, the objects to rasterize.
            size: (height, width) of the image.
            stride: side of a pixel of the masks, in pixels of the image.

        Returns:
            (n, ceil(height / stride), ceil(width / stride)) bool.
        """
        numbers = np.flatnonzero(is_kept).tolist()
        mask_size = (-(-size[0] // stride), -(-size[1] // stride))
        polygons = self._polygons(numbers)
        if stride > 1:
            polygons = [[polygon / stride for polygon in object_polygons] for object_polygons in polygons]
        masks = rasterize(polygons, mask_size)
        positions = {number: position for position, number in enumerate(numbers)}
        for bitmaps in self._bitmaps:
            transforms = _compose(bitmaps.transforms, size, stride)
            for number, rle in zip(bitmaps.numbers, bitmaps.rles, strict=True):
                if number in positions:
                    _draw_rle(masks[positions[number]], rle, transforms)
        return masks

    def keypoints(self, is_kept: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the keypoints of objects. As in detectron2, keypoints outside of the image are unlabeled.

        Args:
            is_kept: (N,) bool, the objects to return.
            size: (height, width) of the image.

        Returns:
            (n, P, 3) float32, x and y in pixels, visibility; all are 0 for unlabeled keypoints.
        """
        assert self._keypoints is not None
        points, visibility = self._keypoints[is_kept], self._visibility[is_kept]
        keypoints = np.concatenate([points, visibility[..., None]], axis=2).astype(np.float32)
        keypoints[~_is_inside(points, size) | (visibility == 0)] = 0
        return keypoints


def _is_inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (...) bool for points (..., 2): whether they are inside of an image or on its edge."""
    return np.all((points >= 0) & (points <= size[::-1]), axis=-1)


def is_mirroring(transform: Transform, size: tuple[int, int]) -> bool:
    """Return whether a transform of an image of ``size`` (height, width) turns it into a mirror image."""
    if isinstance(transform, AffineTransform):
        right, down = transform.matrix[:, :2].T
    else:
        corners = transform.apply_coords(np.array([[0, 0], [size[1], 0], [0, size[0]]], dtype=np.float64))
        right, down = corners[1] - corners[0], corners[2] - corners[0]
    return bool(right[0] * down[1] < right[1] * down[0])


def _compose(transforms: Sequence[Transform], size: tuple[int, int], stride: int) -> list[Transform]:
    """Return the transforms of masks, with consecutive affine transforms composed.

    Args:
        transforms: transforms of the image.
        size: (height, width) of the image after the transforms.
        stride: side of a pixel of the masks, in pixels of the image.
    """
    transforms = list(transforms)
    if stride > 1:
        mask_size = (-(-size[0] // stride), -(-size[1] // stride))
        transforms.append(AffineTransform(np.array([[1 / stride, 0, 0], [0, 1 / stride, 0]]), size, mask_size))
    composed: list[Transform] = []
    for transform in transforms:
        if isinstance(transform, AffineTransform):
            transform = AffineTransform(transform.matrix, transform.size, transform.canvas)  # masks have no fill
            last = composed[-1] if composed else None
            joint = last.then(transform) if isinstance(last, AffineTransform) else None
            if joint is not None:
                composed[-1] = joint
                continue
        composed.append(transform)
    return composed


def _draw_rle(mask: np.ndarray, rle: dict[str, Any], transforms: Sequence[Transform]) -> None:
    """Draw an RLE into an empty mask (H, W) bool after the transforms, in place."""
    if len(transforms) == 1 and isinstance(transforms[0], AffineTransform):
        _draw_box(mask, rle, transforms[0].matrix)
        return
    pixels = coco_mask.decode(rle)
    for transform in transforms:
        pixels = transform.apply_segmentation(pixels)
    mask[:] = pixels


def _draw_box(mask: np.ndarray, rle: dict[str, Any], matrix: np.ndarray) -> None:
    """Draw an RLE by nearest neighbor into an empty mask, in place; only its box is decoded and warped.

    Args:
        mask: (H, W) bool.
        rle: RLE in the form of pycocotools.
        matrix: (2, 3) affine map of the pixels of the RLE onto the mask.
    """
    x, y, width, height = coco_mask.toBbox(rle).astype(np.int64).tolist()
    corners = (
        np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]]) @ matrix[:, :2].T + matrix[:, 2]
    )
    left, top = np.maximum(np.floor(corners.min(axis=0)), 0).astype(np.int64).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)), mask.shape[::-1]).astype(np.int64).tolist()
    if left >= right or top >= bottom or not width or not height:
        return
    # An RLE stores columns, so x and y of the source change places. OpenCV places pixel centers at integers.
    swapped = matrix[:, [1, 0, 2]].copy()
    swapped[:, 2] += matrix[:, :2] @ [x + 0.5, y + 0.5] - 0.5 - (left, top)
    columns = decode_columns(rle, x, x + width)[:, y : y + height]
    mask[top:bottom, left:right] = cv2.warpAffine(
        columns, swapped, (right - left, bottom - top), flags=cv2.INTER_NEAREST
    )
