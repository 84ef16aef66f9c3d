"""Mapping of dataset records to model inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.transforms import Augmentation
from detectron2.structures import Boxes, Instances

from deim.data.geometry import LazyImage
from deim.data.image import ImageReader, read_image
from deim.data.instance_fields import InstanceFields
from deim.data.records import OBJECT_KEYS, annotation_arrays, record_size
from deim.errors import ConfigError

IMAGE_FORMATS = ("RGB", "BGR")
# Names of the channel order in detectron2's mappers and in detrex's.
CHANNEL_ORDER_KEYS = ("image_format", "img_format")


def channel_order(mapper: Mapping[str, Any]) -> str | None:
    """Return the channel order in the config node of a mapper, under detectron2's or detrex's name.

    Returns:
        "RGB" or "BGR"; None if the node does not state the channel order.
    """
    return next((mapper[key] for key in CHANNEL_ORDER_KEYS if mapper.get(key)), None)


class DetectionMapper:
    """Mapper that reads the image of a record and augments it together with its objects.

    Masks and keypoints follow the image like the boxes, and are dropped together with their object. Boxes are not
    recomputed from masks, as in the official code: the box of a rotated or cut object may be larger than its mask. An
    object without ``segmentation`` has an empty mask, and an object without ``keypoints`` only unlabeled keypoints.

    Args:
        augmentations: detectron2 augmentations, in order. Consecutive ``deim`` augmentations are applied in one pass;
            augmentations from other packages work as well.
        is_train: whether to add ``instances`` to the sample.
        img_format: "RGB" or "BGR", the channel order of the sample (detrex's argument name). Augmentations get RGB.
        min_box_size: minimum side of a box after augmentation, in pixels; smaller objects are dropped.
        read: image reader.
        image_format: detectron2's name of ``img_format``.
        masks, keypoints: whether to add ``gt_masks`` and ``gt_keypoints`` to the instances.
        mask_stride: side of a pixel of the masks, in pixels of the image. The masks cover the whole image.
        mask_format: "bitmask" or "polygon", the class of ``gt_masks``: ``BitMasks`` or ``PolygonMasks``.
        dataset_name: registered name of the dataset, whose metadata define the keypoints (``keypoint_names``) and
            those that a mirror image exchanges (``keypoint_flip_map``).
        keypoint_hflip_indices: (P,) detectron2's form of the flip map, instead of ``dataset_name``.
        areas: with ``keypoints``, whether to add ``gt_areas``, float32 (n,) in square pixels: ``area`` of the annotations
            (which the readers of this package do not keep) or else the area of the mask or box. They follow the areas of the boxes.

    Raises:
        ConfigError: if a value is not valid, or the keypoints are not defined.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation],
        is_train: bool,
        img_format: str = "RGB",
        min_box_size: float = 1.0,
        read: ImageReader = read_image,
        image_format: str | None = None,
        masks: bool = False,
        keypoints: bool = False,
        mask_stride: int = 1,
        mask_format: str = "bitmask",
        dataset_name: str | Sequence[str] | None = None,
        keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
        areas: bool = False,
    ):
        img_format = image_format or img_format
        if img_format not in IMAGE_FORMATS:
            raise ConfigError(
                f"mapper: img_format={img_format!r} is not valid; choose one of {', '.join(IMAGE_FORMATS)}"
            )
        self.augmentations = list(augmentations)
        self.is_train, self.img_format, self.min_box_size = is_train, img_format, min_box_size
        self.read = read
        self.fields = InstanceFields(
            masks, keypoints, mask_stride, mask_format, dataset_name, keypoint_hflip_indices, areas
        )

    def __call__(self, record: dict) -> dict:
        """Map a record to a sample.

        Args:
            record: a detectron2 record or one of :class:`deim.data.records.CompactRecords`; not modified.

        Returns:
            the record without its annotations, with ``image``, uint8 (3, H, W) with interleaved channels in memory,
            and, for training, ``instances``: ``gt_boxes``, int64 ``gt_classes`` and, on request, ``gt_masks`` and
            ``gt_keypoints`` (n, P, 3). ``height`` and ``width`` are those of the image file.

        Raises:
            DatasetError: if the image cannot be read, its size differs from that of the record or of a mask, or a mask
                or keypoint is invalid.
        """
        sample = {key: value for key, value in record.items() if key not in OBJECT_KEYS}
        lazy_image, classes = self._load(record)
        sample.setdefault("height", lazy_image.size[0])
        sample.setdefault("width", lazy_image.size[1])
        sample["image"] = self._augment(lazy_image)
        if self.is_train:
            sample["instances"] = self._to_instances(lazy_image, classes)
        return sample

    def map_image(self, image: np.ndarray) -> torch.Tensor:
        """Augment a decoded image, uint8 (H, W, 3) RGB, and return the model input; see :meth:`__call__`."""
        return self._augment(LazyImage(image, (image.shape[0], image.shape[1]), np.zeros((0, 4))))

    def _augment(self, lazy_image: LazyImage) -> torch.Tensor:
        for policy in self.augmentations:
            lazy_image.augment(policy)
        image = lazy_image.render()
        if self.img_format == "BGR":
            image = image[..., ::-1]
        # Augmentations from other packages may return views that torch does not accept.
        image = np.require(image, requirements=["C_CONTIGUOUS", "WRITEABLE"])
        return torch.from_numpy(image).permute(2, 0, 1)

    def _load(self, record: dict) -> tuple[LazyImage, np.ndarray]:
        """Return the image before augmentation, with its objects, and the classes (N,)."""
        boxes, classes = annotation_arrays(record)
        lazy_image = open_lazy_image(record, boxes.astype(np.float64), self.read)
        if self.is_train:
            lazy_image.shapes = self.fields.shapes(record, lazy_image.size)
        return lazy_image, classes

    def _to_instances(self, lazy_image: LazyImage, classes: np.ndarray) -> Instances:
        height, width = lazy_image.size
        boxes = lazy_image.boxes.clip(0, np.array([width, height, width, height]))
        is_large = (boxes[:, 2:] - boxes[:, :2] >= self.min_box_size).all(axis=1)
        instances = Instances(
            (height, width),
            gt_boxes=Boxes(torch.from_numpy(boxes[is_large].astype(np.float32))),
            gt_classes=torch.from_numpy(classes[is_large]),
        )
        if lazy_image.shapes is not None:
            self.fields.add_to(instances, lazy_image.shapes, is_large)
        return instances


def open_lazy_image(record: dict, boxes: np.ndarray, read: ImageReader = read_image) -> LazyImage:
    """Return the image of a record; reading is deferred if the record contains the image size."""
    file_name, size = record["file_name"], record_size(record)
    if size is not None:
        return LazyImage(lambda factor: read(file_name, size, factor), size, boxes)
    image = read(file_name)
    return LazyImage(image, (image.shape[0], image.shape[1]), boxes)
