"""Masks of the objects of one image, as bitmaps or as polygons."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor

from .boxes import Boxes


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterize the union of polygons [x0, y0, x1, y1, ...] into a bool mask of shape (height, width)."""
    if len(polygons) == 0:  # pycocotools does not support it
        return np.zeros((height, width), dtype=bool)
    return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width))).astype(bool)


class BitMasks:
    """Masks as bitmaps.

    Attributes:
        tensor: bool tensor of shape (N, H, W).
        image_size: (H, W).
    """

    def __init__(self, tensor: Tensor | np.ndarray):
        """Store ``tensor`` as bool.

        Raises:
            AssertionError: if it does not have three dimensions.
        """
        if isinstance(tensor, Tensor):
            tensor = tensor.to(torch.bool)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.bool, device="cpu")
        if tensor.dim() != 3:
            raise AssertionError(f"BitMasks needs a tensor of shape (N, H, W), got {tuple(tensor.shape)}")
        self.image_size = tensor.shape[1:]
        self.tensor = tensor

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item) -> "BitMasks":
        """Return the masks at an index, a slice, a list or tensor of indices, or a bool tensor.

        Raises:
            AssertionError: if the result does not have three dimensions.
        """
        selected = self.tensor[item]
        return BitMasks(selected[None] if isinstance(item, int) else selected)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """Return a bool tensor of shape (N,), True for masks with at least one pixel."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: "PolygonMasks | list[list[np.ndarray]]", height: int, width: int
    ) -> "BitMasks":
        """Rasterize polygons into masks of shape (N, height, width)."""
        objects = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        masks = [torch.from_numpy(polygons_to_bitmask(polygons, height, width)) for polygons in objects]
        return BitMasks(torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool))

    def get_bounding_boxes(self) -> Boxes:
        """Return the tight boxes of the masks; all coordinates are 0 for empty masks."""
        boxes = torch.zeros(len(self), 4)
        for box, mask in zip(boxes, self.tensor, strict=True):
            rows, columns = torch.where(mask)
            if len(rows):
                box[:] = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: list["BitMasks"]) -> "BitMasks":
        """Concatenate masks of the same size.

        Raises:
            AssertionError: if ``bitmasks_list`` is not a list or tuple of BitMasks, or is empty.
        """
        _check_list(bitmasks_list, BitMasks)
        return type(bitmasks_list[0])(torch.cat([masks.tensor for masks in bitmasks_list]))


class PolygonMasks:
    """Masks as polygons.

    Attributes:
        polygons: for each object, a list of polygons [x0, y0, x1, y1, ...], float64 arrays.
    """

    def __init__(self, polygons: list[list[Tensor | np.ndarray]]):
        """Store copies of the polygons.

        Raises:
            ValueError: if ``polygons`` or the polygons of an object are not a list, or a polygon has fewer than three
                points or an odd number of coordinates.
        """
        for value in (polygons, *polygons) if isinstance(polygons, list) else (polygons,):
            if not isinstance(value, list):
                raise ValueError(f"PolygonMasks needs a list of lists of polygons, got {type(value)}")
        self.polygons = [[_to_array(polygon) for polygon in object_polygons] for object_polygons in polygons]

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        """Return the object itself: polygons are always on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __getitem__(self, item) -> "PolygonMasks":
        """Return the masks at an index, a slice, a list or integer tensor of indices, or a bool tensor.

        Raises:
            AssertionError: if a bool tensor does not have one dimension.
            ValueError: if a tensor has another dtype.
        """
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        if isinstance(item, Tensor):
            if item.dtype == torch.bool:
                if item.dim() != 1:
                    raise AssertionError(f"a bool index must have shape (N,), got {tuple(item.shape)}")
                item = item.nonzero()[:, 0]
            elif item.dtype not in (torch.int32, torch.int64):
                raise ValueError(f"Unsupported tensor dtype={item.dtype} for indexing!")
            item = item.tolist()
        return PolygonMasks([self.polygons[index] for index in ([item] if isinstance(item, int) else item)])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """Return a bool tensor of shape (N,), True for objects with at least one polygon."""
        return torch.tensor([len(polygons) > 0 for polygons in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """Return the tight boxes of the polygons.

        As in detectron2, the right and lower edges are at least 0, and the box of an object without polygons is
        (inf, inf, 0, 0).
        """
        boxes = torch.tensor([[float("inf"), float("inf"), 0, 0]]).repeat(len(self), 1)
        for box, polygons in zip(boxes, self.polygons, strict=True):
            for polygon in polygons:
                points = torch.from_numpy(polygon).view(-1, 2).float()
                box[:2] = torch.minimum(box[:2], points.amin(dim=0))
                box[2:] = torch.maximum(box[2:], points.amax(dim=0))
        return Boxes(boxes)

    @staticmethod
    def cat(polymasks_list: list["PolygonMasks"]) -> "PolygonMasks":
        """Concatenate masks.

        Raises:
            AssertionError: if ``polymasks_list`` is not a list or tuple of PolygonMasks, or is empty.
        """
        _check_list(polymasks_list, PolygonMasks)
        return type(polymasks_list[0])(list(itertools.chain.from_iterable(masks.polygons for masks in polymasks_list)))


def _to_array(polygon: Tensor | np.ndarray) -> np.ndarray:
    array = np.array(polygon.cpu() if isinstance(polygon, Tensor) else polygon, dtype=np.float64)
    if len(array) % 2 != 0 or len(array) < 6:
        raise ValueError(f"Cannot create a polygon from {len(array)} coordinates.")
    return array


def _check_list(values: Any, expected: type) -> None:
    is_list = isinstance(values, (list, tuple)) and len(values) > 0
    if not is_list or not all(isinstance(value, expected) for value in values):
        raise AssertionError(f"{expected.__name__}.cat needs a non-empty list of {expected.__name__}")
