"""Mixup: blending of two images, keeping the objects of both (DEIM, section 3.2)."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.structures import Instances

from deim.data.batch_operations import BatchOperation


class Mixup(BatchOperation):
    """Mixup of every image of a batch with its neighbor.

    Args:
        prob: probability that a batch is blended.
        ratio: range of the weight of the image; its neighbor gets the remainder.
        epochs: see :class:`BatchOperation`.
    """

    def source_positions(self, position: int, batch_size: int) -> Sequence[int]:
        return [(position - 1) % batch_size]

    def apply(self, sample: dict, sources: Sequence[dict], weight: float, generator: np.random.Generator) -> dict:
        return mix([sample], sources, weight)[0]


def mix(samples: Sequence[dict], neighbors: Sequence[dict], weight: float) -> list[dict]:
    """Blend samples with their neighbors, which must have the same image sizes.

    Args:
        samples, neighbors: samples with ``image`` uint8 (3, H, W) and ``instances``; not modified.
        weight: weight of the image of the sample.

    Returns:
        samples with the image ``weight * own + (1 - weight) * neighbor`` and the objects of both.
    """
    mixed = []
    for own, other in zip(samples, neighbors, strict=True):
        image, neighbor_image = (sample["image"].permute(1, 2, 0).numpy() for sample in (own, other))
        blended = torch.from_numpy(cv2.addWeighted(image, weight, neighbor_image, 1 - weight, 0))
        instances = Instances.cat([own["instances"], other["instances"]])
        mixed.append({**own, "image": blended.permute(2, 0, 1), "instances": instances})
    return mixed
