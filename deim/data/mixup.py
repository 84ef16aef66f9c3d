"""Mixup: two images on top of each other, with the objects of both (DEIM, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.structures import Instances


@dataclass(frozen=True)
class Mixup:
    """Blends every image of a batch with its neighbor.

    Args:
        prob: how often a batch is blended.
        ratio: range of the weight of an image itself; its neighbor has the rest.
    """

    prob: float = 0.5
    ratio: tuple[float, float] = (0.45, 0.55)

    def draw(self) -> float | None:
        """The weight for a batch, from NumPy's generator; None where it is not blended."""
        weight = np.random.uniform(*self.ratio)
        return weight if np.random.uniform() < self.prob else None


def mix(samples: Sequence[dict], neighbors: Sequence[dict], weight: float) -> list[dict]:
    """Blend samples with others of the same size.

    Args:
        samples, neighbors: with ``image`` uint8 (3, H, W) and ``instances``; not changed.
        weight: of the sample's own image.

    Returns:
        samples whose image is ``weight * own + (1 - weight) * other`` and whose objects are those of
        both.
    """
    mixed = []
    for own, other in zip(samples, neighbors, strict=True):
        image, behind = (one["image"].permute(1, 2, 0).numpy() for one in (own, other))
        blended = torch.from_numpy(cv2.addWeighted(image, weight, behind, 1 - weight, 0))
        instances = Instances.cat([own["instances"], other["instances"]])
        mixed.append({**own, "image": blended.permute(2, 0, 1), "instances": instances})
    return mixed
