"""Mosaic augmentation: four images in one (YOLOv4; DEIM, arXiv 2412.04234, section 3.2, "Dense O2O")."""

import math
from collections.abc import Sequence

import numpy as np

from deim.data.geometry import AffineTransform


class Mosaic:
    """Random mosaic geometry: 2 x 2 tiles, rotated, shifted and scaled together.

    The short side of every image is resized to ``tile_size``, and the image is placed in the top left corner of its
    tile; all tiles have the size of the largest image. The canvas is then rotated about its center and resized to the output
    shape. All steps are combined into one transform per image.

    Args:
        tile_size: short side of an image before the affine map, in pixels.
        degrees: maximum rotation in either direction.
        translate: maximum shift, relative to the canvas.
        scale: range of the scale factor.
        fill: gray value between and around the images, 0 to 255.
    """

    def __init__(
        self,
        tile_size: int = 320,
        degrees: float = 10.0,
        translate: float = 0.1,
        scale: tuple[float, float] = (0.5, 1.5),
        fill: int = 0,
    ):
        self.tile_size, self.degrees, self.translate = tile_size, degrees, translate
        self.scale, self.fill = scale, fill

    def get_transforms(self, sizes: Sequence[tuple[int, int]], shape: tuple[int, int]) -> list[AffineTransform]:
        """Draw the transforms of a mosaic.

        Args:
            sizes: (height, width) of the four images.
            shape: (height, width) of the result.

        Returns:
            one transform per image: top left, top right, bottom left, bottom right.
        """
        factors = [self.tile_size / min(size) for size in sizes]
        tile_height = max(round(height * factor) for (height, _), factor in zip(sizes, factors, strict=True))
        tile_width = max(round(width * factor) for (_, width), factor in zip(sizes, factors, strict=True))
        canvas_to_output = self._canvas_to_output((2 * tile_height, 2 * tile_width), shape)
        transforms = []
        for number, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
            row, column = divmod(number, 2)
            tile_matrix = np.array([[factor, 0, column * tile_width], [0, factor, row * tile_height], [0, 0, 1]])
            transforms.append(AffineTransform((canvas_to_output @ tile_matrix)[:2], size, shape, self.fill))
        return transforms

    def _canvas_to_output(self, canvas: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
        """Draw the (3, 3) matrix: rotation and scale about the center, then shift, then resize."""
        height, width = canvas
        angle = math.radians(np.random.uniform(-self.degrees, self.degrees))
        scale = np.random.uniform(*self.scale)
        shift = np.random.uniform(-self.translate, self.translate, 2) * [width, height]
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        center = np.array([width, height]) / 2
        rotation = np.array([[cos, -sin], [sin, cos]])
        matrix = np.eye(3)
        matrix[:2, :2] = rotation
        matrix[:2, 2] = center - rotation @ center + shift
        return np.diag([shape[1] / width, shape[0] / height, 1.0]) @ matrix
