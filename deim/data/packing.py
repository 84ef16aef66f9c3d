"""Packing of batches for transfer from worker processes: a few large tensors are faster than many small ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from torch import Tensor

# Fields of the instances, and the classes of optional fields.
_FIELDS = {"gt_boxes", "gt_classes"}
_OPTIONAL_FIELDS = {"gt_masks": (BitMasks, PolygonMasks), "gt_keypoints": (Keypoints,), "gt_areas": (Tensor,)}


@dataclass
class PackedPolygons:
    """Polygons of several objects.

    Attributes:
        coordinates: (2 M,) float64, the coordinates of all polygons.
        lengths: number of coordinates of each polygon.
        counts: number of polygons of each object.
    """

    coordinates: Tensor
    lengths: list[int]
    counts: list[int]


@dataclass
class PackedBatch:
    """Samples whose images have the same size.

    Attributes:
        images: (B, H, W, 3) uint8.
        boxes: (N, 4) float32, the boxes of all images.
        classes: (N,) int64.
        counts: number of objects in each image.
        other_fields: remaining fields of each sample.
        masks: (N, h, w) bool, or polygons; None without masks.
        keypoints: (N, P, 3) float32; None without keypoints.
        areas: (N,) float32; None without areas.
    """

    images: Tensor
    boxes: Tensor
    classes: Tensor
    counts: list[int]
    other_fields: list[dict[str, Any]]
    masks: Tensor | PackedPolygons | None = None
    keypoints: Tensor | None = None
    areas: Tensor | None = None

    def pin_memory(self) -> "PackedBatch":
        """Return the batch with its images and bitmaps in pinned memory; called by torch's data loader."""
        masks = self.masks.pin_memory() if isinstance(self.masks, Tensor) else self.masks
        return replace(self, images=self.images.pin_memory(), masks=masks)


def pack(samples: list[dict]) -> PackedBatch | list[dict]:
    """Pack samples into a few large tensors.

    Samples are returned unchanged unless all images are uint8 tensors of one size, and all instances have boxes,
    classes and, in all samples alike, masks, keypoints and areas, but no other fields.
    """
    if not all(_is_packable(sample) for sample in samples) or len({sample["image"].shape for sample in samples}) > 1:
        return samples
    instances = [sample["instances"] for sample in samples]
    if len({_layout(image_instances) for image_instances in instances}) > 1:
        return samples
    images = [sample["image"].permute(1, 2, 0) for sample in samples]
    storage = torch.empty((len(images), *images[0].shape), dtype=torch.uint8).share_memory_()
    batch = PackedBatch(
        torch.stack(images, out=storage),
        torch.cat([image_instances.gt_boxes.tensor for image_instances in instances]),
        torch.cat([image_instances.gt_classes for image_instances in instances]),
        [len(image_instances) for image_instances in instances],
        [{k: v for k, v in sample.items() if k not in ("image", "instances")} for sample in samples],
    )
    if instances[0].has("gt_masks"):
        batch.masks = _pack_masks([image_instances.gt_masks for image_instances in instances])
    if instances[0].has("gt_keypoints"):
        batch.keypoints = torch.cat([image_instances.gt_keypoints.tensor for image_instances in instances])
    if instances[0].has("gt_areas"):
        batch.areas = torch.cat([image_instances.gt_areas for image_instances in instances])
    return batch


def unpack(batch: PackedBatch | list[dict]) -> list[dict]:
    """Return the samples of a batch; their tensors are views of the packed tensors."""
    if not isinstance(batch, PackedBatch):
        return batch
    height, width = batch.images.shape[1:3]
    parts = zip(
        batch.other_fields,
        batch.images,
        batch.boxes.split(batch.counts),
        batch.classes.split(batch.counts),
        strict=True,
    )
    samples = [
        {
            **other,
            "image": image.permute(2, 0, 1),
            "instances": Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=classes),
        }
        for other, image, boxes, classes in parts
    ]
    if batch.masks is not None:
        for sample, masks in zip(samples, _unpack_masks(batch.masks, batch.counts), strict=True):
            sample["instances"].gt_masks = masks
    if batch.keypoints is not None:
        for sample, keypoints in zip(samples, batch.keypoints.split(batch.counts), strict=True):
            sample["instances"].gt_keypoints = Keypoints(keypoints)
    if batch.areas is not None:
        for sample, areas in zip(samples, batch.areas.split(batch.counts), strict=True):
            sample["instances"].gt_areas = areas
    return samples


def _is_packable(sample: dict) -> bool:
    image, instances = sample.get("image"), sample.get("instances")
    return (
        isinstance(image, Tensor)
        and image.dtype == torch.uint8
        and isinstance(instances, Instances)
        and _has_known_fields(instances.get_fields())
    )


def _has_known_fields(fields: dict[str, Any]) -> bool:
    if fields.keys() == _FIELDS:
        return True
    optional = {name: value for name, value in fields.items() if name not in _FIELDS}
    return fields.keys() >= _FIELDS and all(
        isinstance(value, _OPTIONAL_FIELDS.get(name, ())) for name, value in optional.items()
    )


def _layout(instances: Instances) -> tuple:
    """Return what must be equal in all samples of a packed batch: the fields and the shapes of one object."""
    fields = instances.get_fields()
    masks, keypoints = fields.get("gt_masks"), fields.get("gt_keypoints")
    return (
        type(masks),
        masks.tensor.shape[1:] if isinstance(masks, BitMasks) else None,
        None if keypoints is None else keypoints.tensor.shape[1:],
        "gt_areas" in fields,
    )


def _pack_masks(masks: Sequence[Any]) -> Tensor | PackedPolygons:
    if isinstance(masks[0], PolygonMasks):
        objects = [polygons for image_masks in masks for polygons in image_masks.polygons]
        flat = [polygon for polygons in objects for polygon in polygons]
        coordinates = torch.from_numpy(np.concatenate([np.zeros(0), *flat]))
        return PackedPolygons(coordinates, [len(polygon) for polygon in flat], [len(polygons) for polygons in objects])
    tensors = [image_masks.tensor for image_masks in masks]
    storage = torch.empty((sum(map(len, tensors)), *tensors[0].shape[1:]), dtype=torch.bool)
    if storage.numel():
        storage.share_memory_()
    return torch.cat(tensors, out=storage)


def _unpack_masks(masks: Tensor | PackedPolygons, counts: Sequence[int]) -> list[BitMasks | PolygonMasks]:
    if isinstance(masks, Tensor):
        return [BitMasks(image_masks) for image_masks in masks.split(list(counts))]
    polygons = iter(masks.coordinates.split(masks.lengths) if masks.lengths else ())
    objects = iter([[next(polygons).numpy() for _ in range(count)] for count in masks.counts])
    return [PolygonMasks([next(objects) for _ in range(count)]) for count in counts]
