"""The plain policies."""

import sys

import numpy as np
from fvcore.transforms.transform import HFlipTransform, NoOpTransform
from PIL import Image

from .augmentation import Augmentation
from .transform import ResizeTransform

__all__ = ["RandomFlip", "Resize", "ResizeShortestEdge"]


class RandomFlip(Augmentation):
    """Mirror left-right with probability ``prob``."""

    def __init__(self, prob=0.5, *, horizontal=True, vertical=False):
        super().__init__()
        if vertical or not horizontal:
            raise NotImplementedError("only horizontal flips; install detectron2 for vertical ones")
        self.prob, self.horizontal, self.vertical = prob, horizontal, vertical

    def get_transform(self, image):
        return HFlipTransform(image.shape[1]) if np.random.uniform() < self.prob else NoOpTransform()


class Resize(Augmentation):
    """Resize to ``shape`` (height, width), whatever the aspect ratio."""

    def __init__(self, shape, interp=Image.BILINEAR):
        super().__init__()
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image):
        return ResizeTransform(image.shape[0], image.shape[1], self.shape[0], self.shape[1], self.interp)


class ResizeShortestEdge(Augmentation):
    """Resize so that the shorter side has a given length and the longer one at most ``max_size`` pixels.

    The length is drawn from ``short_edge_length``: one of them ("choice"), or between two ("range").
    """

    def __init__(self, short_edge_length, max_size=sys.maxsize, sample_style="range", interp=Image.BILINEAR):
        super().__init__()
        if sample_style not in ("range", "choice"):
            raise AssertionError(sample_style)
        lengths = short_edge_length
        self.short_edge_length = (lengths, lengths) if isinstance(lengths, int) else tuple(lengths)
        self.max_size, self.interp, self.is_range = max_size, interp, sample_style == "range"

    def get_transform(self, image):
        height, width = image.shape[:2]
        lengths = self.short_edge_length
        length = np.random.randint(lengths[0], lengths[1] + 1) if self.is_range else np.random.choice(lengths)
        if length == 0:
            return NoOpTransform()
        scale = min(length / min(height, width), self.max_size / max(height, width))
        return ResizeTransform(height, width, int(height * scale + 0.5), int(width * scale + 0.5), self.interp)
