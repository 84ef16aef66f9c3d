"""Common augmentations."""

import sys

import numpy as np
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, VFlipTransform
from PIL import Image

from .augmentation import Augmentation
from .transform import ResizeTransform

__all__ = ["RandomFlip", "Resize", "ResizeShortestEdge"]


class RandomFlip(Augmentation):
    """Flip the image with probability ``prob`` in one direction, which is horizontal by default."""

    def __init__(self, prob=0.5, *, horizontal=True, vertical=False):
        """Create the augmentation.

        Raises:
            ValueError: if both directions are enabled, or neither is.
        """
        super().__init__()
        if bool(horizontal) == bool(vertical):
            raise ValueError(
                "RandomFlip flips in one direction: set exactly one of horizontal and vertical to True. For both directions, use "
                "two RandomFlip augmentations."
            )
        self._init(locals())

    def get_transform(self, image):
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(image.shape[1]) if self.horizontal else VFlipTransform(image.shape[0])


class Resize(Augmentation):
    """Resize the image to a fixed size."""

    def __init__(self, shape, interp=Image.BILINEAR):
        """Create the augmentation.

        Args:
            shape: (height, width) in pixels, or one number for a square.
            interp: interpolation method of PIL.
        """
        super().__init__()
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image):
        return ResizeTransform(image.shape[0], image.shape[1], self.shape[0], self.shape[1], self.interp)


class ResizeShortestEdge(Augmentation):
    """Resize the shorter side of the image to a random length, keeping the aspect ratio."""

    def __init__(self, short_edge_length, max_size=sys.maxsize, sample_style="range", interp=Image.BILINEAR):
        """Create the augmentation.

        Args:
            short_edge_length: length in pixels, or a list of lengths. A length of 0 leaves the image unchanged.
            max_size: maximum length of the longer side in pixels.
            sample_style: "choice" samples one of the lengths; "range" samples a length between two given lengths.
            interp: interpolation method of PIL.

        Raises:
            AssertionError: if ``sample_style`` is unknown, or is "range" without exactly two lengths.
        """
        super().__init__()
        if sample_style not in ("range", "choice"):
            raise AssertionError(f'sample_style must be "range" or "choice", got {sample_style!r}')
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        self.is_range = sample_style == "range"
        if self.is_range and len(short_edge_length) != 2:
            raise AssertionError(
                f'sample_style="range" needs two lengths in short_edge_length, got {short_edge_length}'
            )
        self._init(locals())

    def get_transform(self, image):
        height, width = image.shape[:2]
        lengths = self.short_edge_length
        length = np.random.randint(lengths[0], lengths[1] + 1) if self.is_range else np.random.choice(lengths)
        if length == 0:
            return NoOpTransform()
        new_height, new_width = self.get_output_shape(height, width, length, self.max_size)
        return ResizeTransform(height, width, new_height, new_width, self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of size (oldh, oldw) is resized."""
        scale = short_edge_length / min(oldh, oldw)
        # Set the shorter side directly: the scaled value could round to another number.
        height, width = (short_edge_length, scale * oldw) if oldh < oldw else (scale * oldh, short_edge_length)
        shrink = min(1.0, max_size / max(height, width))
        return int(height * shrink + 0.5), int(width * shrink + 0.5)
