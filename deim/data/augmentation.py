"""Augmentations of DEIM and D-FINE as detectron2 policies.

They are those that RT-DETR took from torchvision's detection references. All draw from NumPy's
global generator, as detectron2's do; the train loader seeds it for each sample.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data.transforms import Augmentation, NoOpTransform, Transform


class Resize(Augmentation):
    """Resize to ``shape`` (height, width) by OpenCV, averaging where the image shrinks.

    Several times faster than detectron2's, which goes through PIL.
    """

    def __init__(self, shape: int | Sequence[int]):
        super().__init__()
        height, width = (shape, shape) if isinstance(shape, int) else shape
        self.shape = (int(height), int(width))

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(image.shape[:2], self.shape)


class ResizeTransform(Transform):
    """From ``size`` to ``new_size``, both (height, width)."""

    def __init__(self, size: tuple[int, int], new_size: tuple[int, int]):
        super().__init__()
        self.size, self.new_size = size, new_size

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if img.shape[:2] == self.new_size:
            return img
        shrinks = self.new_size[0] < img.shape[0] and self.new_size[1] < img.shape[1]
        return cv2.resize(img, self.new_size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        (height, width), (new_height, new_width) = self.size, self.new_size
        return coords * np.array([new_width / width, new_height / height], dtype=coords.dtype)


class RandomPhotometricDistort(Augmentation):
    """Brightness, contrast, saturation, hue and the order of channels, each with probability ``prob``.

    Args:
        brightness, contrast, saturation: ranges of the factors.
        hue: range of the shift, in turns.
    """

    def __init__(
        self,
        prob: float = 0.5,
        brightness: tuple[float, float] = (0.875, 1.125),
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: tuple[float, float] = (-0.05, 0.05),
    ):
        super().__init__()
        self.prob, self.hue = prob, hue
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def get_transform(self, image: np.ndarray) -> Transform:
        def maybe(limits: tuple[float, float]) -> float | None:
            value = np.random.uniform(*limits)
            return value if np.random.uniform() < self.prob else None

        brightness, contrast = maybe(self.brightness), maybe(self.contrast)
        saturation, hue = maybe(self.saturation), maybe(self.hue)
        contrast_first = np.random.uniform() < 0.5
        order = np.random.permutation(3) if np.random.uniform() < self.prob else None
        return PhotometricTransform(brightness, contrast, saturation, hue, contrast_first, order)


class PhotometricTransform(Transform):
    """Changes colours only. Any of the factors may be None; ``order`` permutes the channels."""

    def __init__(
        self,
        brightness: float | None,
        contrast: float | None,
        saturation: float | None,
        hue: float | None,
        contrast_first: bool,
        order: np.ndarray | None,
    ):
        super().__init__()
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.hue = saturation, hue
        self.contrast_first, self.order = contrast_first, order

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if self.brightness is not None:
            img = cv2.convertScaleAbs(img, alpha=self.brightness)
        if self.contrast_first:
            img = self._apply_contrast(img)
        img = self._apply_saturation_and_hue(img)
        if not self.contrast_first:
            img = self._apply_contrast(img)
        return img if self.order is None else np.ascontiguousarray(img[..., self.order])

    def _apply_contrast(self, img: np.ndarray) -> np.ndarray:
        if self.contrast is None:
            return img
        mean = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY).mean()
        values = np.arange(256) * self.contrast + mean * (1 - self.contrast)
        return cv2.LUT(img, values.clip(0, 255).round().astype(np.uint8))

    def _apply_saturation_and_hue(self, img: np.ndarray) -> np.ndarray:
        if self.saturation is not None:
            gray = cv2.cvtColor(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            img = cv2.addWeighted(img, self.saturation, gray, 1 - self.saturation, 0)
        if self.hue is not None:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL)
            hsv[..., 0] += np.uint8(round(self.hue * 256) % 256)  # the circle of hues is 256 long, and wraps
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
        return img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords


class RandomZoomOut(Augmentation):
    """With probability ``prob``, place the image somewhere on a canvas 1 to 4 times as large."""

    def __init__(self, prob: float = 0.5, side_range: tuple[float, float] = (1.0, 4.0), fill: int = 0):
        super().__init__()
        self.prob, self.side_range, self.fill = prob, side_range, fill

    def get_transform(self, image: np.ndarray) -> Transform:
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        factor = np.random.uniform(*self.side_range)
        canvas = (int(height * factor), int(width * factor))
        top = int((canvas[0] - height) * np.random.uniform())
        left = int((canvas[1] - width) * np.random.uniform())
        return PlaceTransform(canvas, (top, left), self.fill)


class PlaceTransform(Transform):
    """Put an image on a ``canvas`` (height, width) of colour ``fill`` with its corner at (top, left)."""

    def __init__(self, canvas: tuple[int, int], corner: tuple[int, int], fill: int):
        super().__init__()
        self.canvas, self.corner, self.fill = canvas, corner, fill

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        (top, left), (height, width) = self.corner, img.shape[:2]
        placed = np.full((*self.canvas, *img.shape[2:]), self.fill, dtype=img.dtype)
        placed[top : top + height, left : left + width] = img
        return placed

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        top, left = self.corner
        return coords + np.array([left, top], dtype=coords.dtype)


class RandomIoUCrop(Augmentation):
    """SSD's crop (arXiv 1512.02325, section 2.2) with probability ``prob``.

    A part with sides of 0.3 to 1 of the image's and aspect ratio 0.5 to 2 that overlaps some object
    by at least a random IoU. Objects whose centre is outside are dropped: their boxes become empty.
    """

    input_args = ("image", "boxes")

    def __init__(
        self,
        prob: float = 0.8,
        scale_range: tuple[float, float] = (0.3, 1.0),
        aspect_range: tuple[float, float] = (0.5, 2.0),
        min_ious: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        trials: int = 40,
    ):
        super().__init__()
        self.prob, self.scale_range, self.aspect_range = prob, scale_range, aspect_range
        self.min_ious, self.trials = tuple(min_ious), trials

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> Transform:
        if np.random.uniform() >= self.prob or len(boxes) == 0:
            return NoOpTransform()
        size = image.shape[:2]
        while True:
            min_iou = np.random.choice(self.min_ious)
            if min_iou >= 1.0:  # always drawn after finitely many rounds: "keep the image" ends the search
                return NoOpTransform()
            for _ in range(self.trials):
                window = self._draw(size)
                if window is not None and _overlaps(boxes, window, min_iou):
                    return IoUCropTransform(window)

    def _draw(self, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        height, width = size
        new_width = int(width * np.random.uniform(*self.scale_range))
        new_height = int(height * np.random.uniform(*self.scale_range))
        if not new_width or not new_height:
            return None
        if not self.aspect_range[0] <= new_width / new_height <= self.aspect_range[1]:
            return None
        left = int((width - new_width) * np.random.uniform())
        top = int((height - new_height) * np.random.uniform())
        return left, top, left + new_width, top + new_height


def _centred_inside(boxes: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """(N,) bool: the centre of the box lies inside of the window."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    left, top, right, bottom = window
    return (left < x) & (x < right) & (top < y) & (y < bottom)


def _overlaps(boxes: np.ndarray, window: tuple[int, int, int, int], min_iou: float) -> bool:
    """Whether some box centred in the window has at least this IoU with it."""
    boxes = boxes[_centred_inside(boxes, window)]
    if not len(boxes):
        return False
    sides = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    whole = (window[2] - window[0]) * (window[3] - window[1])
    return bool((shared / (areas + whole - shared)).max() >= min_iou)


class IoUCropTransform(Transform):
    """Cut out ``window`` (left, top, right, bottom); boxes centred outside of it become empty."""

    def __init__(self, window: tuple[int, int, int, int]):
        super().__init__()
        self.window = window

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        left, top, right, bottom = self.window
        return img[top:bottom, left:right]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords - np.array(self.window[:2], dtype=coords.dtype)

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        left, top, right, bottom = self.window
        cropped = np.clip(box, [left, top, left, top], [right, bottom, right, bottom]) - [left, top, left, top]
        cropped[~_centred_inside(box, self.window)] = 0
        return cropped
