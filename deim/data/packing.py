"""Packing of batches for transfer from worker processes: a few large tensors are faster than many small ones."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

_FIELDS = {"gt_boxes", "gt_classes"}


@dataclass
class PackedBatch:
    """Samples whose images have the same size.

    Attributes:
        images: (B, H, W, 3) uint8.
        boxes: (N, 4) float32, the boxes of all images.
        classes: (N,) int64.
        counts: number of objects in each image.
        other_fields: remaining fields of each sample.
    """

    images: Tensor
    boxes: Tensor
    classes: Tensor
    counts: list[int]
    other_fields: list[dict[str, Any]]

    def pin_memory(self) -> "PackedBatch":
        """Return the batch with its images in pinned memory; called by torch's data loader."""
        return replace(self, images=self.images.pin_memory())


def pack(samples: list[dict]) -> PackedBatch | list[dict]:
    """Pack samples into a few large tensors.

    Samples are returned unchanged unless all images are uint8 tensors of one size, and all instances have exactly boxes
    and classes.
    """
    if not all(_is_packable(sample) for sample in samples) or len({sample["image"].shape for sample in samples}) > 1:
        return samples
    images = [sample["image"].permute(1, 2, 0) for sample in samples]
    storage = torch.empty((len(images), *images[0].shape), dtype=torch.uint8).share_memory_()
    instances = [sample["instances"] for sample in samples]
    return PackedBatch(
        torch.stack(images, out=storage),
        torch.cat([image_instances.gt_boxes.tensor for image_instances in instances]),
        torch.cat([image_instances.gt_classes for image_instances in instances]),
        [len(image_instances) for image_instances in instances],
        [{k: v for k, v in sample.items() if k not in ("image", "instances")} for sample in samples],
    )


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
    return [
        {
            **other,
            "image": image.permute(2, 0, 1),
            "instances": Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=classes),
        }
        for other, image, boxes, classes in parts
    ]


def _is_packable(sample: dict) -> bool:
    image, instances = sample.get("image"), sample.get("instances")
    return (
        isinstance(image, Tensor)
        and image.dtype == torch.uint8
        and isinstance(instances, Instances)
        and set(instances.get_fields()) == _FIELDS
    )
