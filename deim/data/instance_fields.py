"""Masks and keypoints that mappers add to the instances of a sample."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances, Keypoints, PolygonMasks

from deim.data.areas import annotation_area_ratios
from deim.data.keypoints import keypoint_hflip_indices
from deim.data.masks import MaskArrays
from deim.data.object_shapes import ObjectShapes
from deim.data.records import CompactRecords, annotation_keypoints, annotation_masks
from deim.errors import ConfigError, DatasetError

MASK_FORMATS = ("bitmask", "polygon")


class InstanceFields:
    """Fields of the instances besides boxes and classes: which ones a mapper adds, and in which form.

    Args:
        masks: add ``gt_masks``.
        keypoints: add ``gt_keypoints``.
        mask_stride: side of a pixel of the masks, in pixels of the image.
        mask_format: "bitmask" for ``BitMasks``, "polygon" for ``PolygonMasks``.
        dataset_name: registered name of the dataset, or several names. Its metadata define the keypoints; they are read
            when they are first needed.
        keypoint_hflip_indices: keypoints in a mirror image, instead of the metadata; see
            :func:`deim.data.keypoints.keypoint_hflip_indices`.
        areas: also add ``gt_areas`` if ``keypoints`` are added.

    Raises:
        ConfigError: if a value is invalid, or the number of keypoints is not defined.
    """

    def __init__(
        self,
        masks: bool = False,
        keypoints: bool = False,
        mask_stride: int = 1,
        mask_format: str = "bitmask",
        dataset_name: str | Sequence[str] | None = None,
        keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
        areas: bool = False,
    ):
        if mask_format not in MASK_FORMATS:
            raise ConfigError(
                f"mapper: mask_format={mask_format!r} is not valid; choose one of {', '.join(MASK_FORMATS)}"
            )
        if int(mask_stride) != mask_stride or mask_stride < 1:
            raise ConfigError(f"mapper: mask_stride must be a positive integer, got {mask_stride!r}")
        if mask_format == "polygon" and mask_stride != 1:
            raise ConfigError(f"mapper: mask_format='polygon' needs mask_stride=1, got {mask_stride}")
        if keypoints and keypoint_hflip_indices is None and dataset_name is None:
            raise ConfigError(
                "mapper: keypoints=True needs the keypoints of the dataset: set dataset_name to the registered name of "
                "the dataset, whose metadata have keypoint_names and keypoint_flip_map, or set keypoint_hflip_indices"
            )
        self.masks, self.keypoints, self.areas = bool(masks), bool(keypoints), bool(areas and keypoints)
        self.mask_stride, self.mask_format = int(mask_stride), mask_format
        self.dataset_name = dataset_name
        self._hflip_indices = None if keypoint_hflip_indices is None else np.asarray(keypoint_hflip_indices, np.int64)

    @cached_property
    def hflip_indices(self) -> np.ndarray | None:
        """(P,) indices of the keypoints in a mirror image; None without keypoints.

        Raises:
            ConfigError: if the metadata of the dataset do not define them.
        """
        if not self.keypoints:
            return None
        if self._hflip_indices is not None:
            return self._hflip_indices
        assert self.dataset_name is not None
        return keypoint_hflip_indices(self.dataset_name)

    @property
    def num_keypoints(self) -> int | None:
        """Number of keypoints of an object; None without keypoints."""
        return None if self.hflip_indices is None else len(self.hflip_indices)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that create equal fields without the metadata of the dataset."""
        return {
            "masks": self.masks,
            "keypoints": self.keypoints,
            "mask_stride": self.mask_stride,
            "mask_format": self.mask_format,
            "keypoint_hflip_indices": self.hflip_indices,
            "areas": self.areas,
        }

    def compact(self, records: Sequence[dict]) -> CompactRecords:
        """Return the records with the boxes, classes, masks and keypoints that the mapper needs.

        Raises:
            ConfigError: if objects have another number of keypoints than the metadata, or an RLE although
                ``mask_format`` is "polygon".
            DatasetError: if a mask or a keypoint is invalid.
        """
        ratios = np.concatenate([annotation_area_ratios(record) for record in records]) if self.areas else None
        compact = CompactRecords(records, self.masks, self.num_keypoints, ratios)
        if compact.masks is not None:
            self._check_format(compact.masks)
        return compact

    def _check_format(self, masks: MaskArrays) -> None:
        if self.mask_format == "polygon" and masks.has_rle.any():
            raise ConfigError(
                "mapper: mask_format='polygon' needs polygons, but objects of the dataset have masks as run-length "
                "encodings; use mask_format='bitmask'"
            )

    def shapes(self, record: dict, size: tuple[int, int]) -> ObjectShapes | None:
        """Return the masks and keypoints of a record; None if the mapper needs neither.

        Args:
            record: a detectron2 record, or one of :meth:`compact`.
            size: (height, width) of the image.

        Raises:
            ConfigError, DatasetError: see :meth:`compact`. DatasetError also if a mask has another size.
        """
        if not self.masks and not self.keypoints:
            return None
        masks = annotation_masks(record) if self.masks else None
        if masks is not None:
            self._check_format(masks)
            _check_size(masks, size, record["file_name"])
        keypoints = None if self.num_keypoints is None else annotation_keypoints(record, self.num_keypoints)
        shapes = ObjectShapes(masks, keypoints, self.hflip_indices)
        shapes.area_ratios = annotation_area_ratios(record) if self.areas else None
        return shapes

    def add_to(self, instances: Instances, shapes: ObjectShapes, is_kept: np.ndarray) -> None:
        """Add ``gt_masks``, ``gt_keypoints`` and ``gt_areas`` to the instances of a sample.

        An area is the same fraction of the box as in the annotation.

        Args:
            instances: instances of the kept objects.
            shapes: masks and keypoints of all objects of the image.
            is_kept: (N,) bool, the kept objects.
        """
        size = instances.image_size
        if self.masks and self.mask_format == "polygon":
            instances.gt_masks = PolygonMasks(shapes.polygons(is_kept))
        elif self.masks:
            instances.gt_masks = BitMasks(torch.from_numpy(shapes.bitmasks(is_kept, size, self.mask_stride)))
        if self.keypoints:
            instances.gt_keypoints = Keypoints(torch.from_numpy(shapes.keypoints(is_kept, size)))
        if shapes.area_ratios is not None:
            instances.gt_areas = instances.gt_boxes.area() * torch.from_numpy(shapes.area_ratios[is_kept])


def _check_size(masks: MaskArrays, size: tuple[int, int], file_name: str) -> None:
    """Raise DatasetError if an RLE has another size than its image; the size may be missing in the record."""
    sizes = masks.rle_sizes[masks.has_rle]
    different = sizes[(sizes != size).any(axis=1)]
    if len(different):
        height, width = different[0].tolist()
        raise DatasetError(
            f"{file_name}: a mask is {width} x {height} (width x height), but the image is {size[1]} x {size[0]}"
        )
