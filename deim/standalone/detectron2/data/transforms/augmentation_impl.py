"""The plain policies."""

import numpy as np
from fvcore.transforms.transform import HFlipTransform, NoOpTransform
from PIL import Image

from .augmentation import Augmentation
from .transform import ResizeTransform

__all__ = ["RandomFlip", "Resize"]


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
