"""Augmentations of DEIM and D-FINE as detectron2 policies.

They are those that RT-DETR took from torchvision's detection references. All draw from NumPy's
global generator, as detectron2's do; the train loader seeds it for each sample.
"""

import copy
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data.transforms import NoOpTransform, Transform

from deim.data.geometry import AffineTransform, PixelTransform, SizeAugmentation


class Resize(SizeAugmentation):
    """Resize to ``shape`` (height, width) by OpenCV, averaging where the image shrinks.

    Several times faster than detectron2's, which goes through PIL.
    """

    def __init__(self, shape: int | Sequence[int]):
        super().__init__()
        height, width = (shape, shape) if isinstance(shape, int) else shape
        self.shape = (int(height), int(width))

    def get_transform(self, image: np.ndarray) -> Transform:
        (height, width), (new_height, new_width) = image.shape[:2], self.shape
        if (height, width) == self.shape:
            return NoOpTransform()
        matrix = np.array([[new_width / width, 0, 0], [0, new_height / height, 0]])
        return AffineTransform(matrix, (height, width), self.shape)


class ResizeShortestEdge(SizeAugmentation):
    """Resize so that the shorter side has a length drawn from ``lengths`` and the longer one at most
    ``max_size`` pixels, like detectron2's, which goes through PIL."""

    def __init__(self, lengths: Sequence[int], max_size: int | None = None):
        super().__init__()
        self.lengths, self.max_size = list(lengths), max_size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        scale = np.random.choice(self.lengths) / min(height, width)
        if self.max_size is not None:
            scale = min(scale, self.max_size / max(height, width))
        return Resize((round(height * scale), round(width * scale))).get_transform(image)


class RandomSizeCrop(SizeAugmentation):
    """Cut out a part whose sides are drawn from ``min_size`` to ``max_size`` pixels, as far as the image has
    so many (DETR, arXiv 2005.12872, appendix A.4)."""

    def __init__(self, min_size: int, max_size: int):
        super().__init__()
        self.min_size, self.max_size = min_size, max_size

    def get_transform(self, image: np.ndarray) -> Transform:
        size = image.shape[:2]
        height, width = (self._draw(side) for side in size)
        top, left = (np.random.randint(side - part + 1) for side, part in zip(size, (height, width), strict=True))
        return AffineTransform(np.array([[1, 0, -left], [0, 1, -top]]), size, (height, width))

    def _draw(self, side: int) -> int:
        low, high = min(self.min_size, side), min(self.max_size, side)
        return int(np.random.randint(low, high + 1))


class OneOf(SizeAugmentation):
    """One of several lists of policies, each as likely, whose transforms are maps as in :mod:`deim.data.geometry`."""

    def __init__(self, choices: Sequence[Sequence[SizeAugmentation]]):
        super().__init__()
        self.choices = [list(choice) for choice in choices]

    def get_transform(self, image: np.ndarray) -> Transform:
        joined: AffineTransform | None = None
        for policy in self.choices[np.random.randint(len(self.choices))]:
            size = image.shape[:2] if joined is None else joined.canvas
            step = policy.get_transform(np.broadcast_to(np.uint8(0), (*size, 3)))
            if isinstance(step, NoOpTransform):
                continue
            following = step if joined is None else joined.then(step)
            if not isinstance(following, AffineTransform):
                raise TypeError(f"{type(policy).__name__} cannot be joined with the policies before it")
            joined = following
        return NoOpTransform() if joined is None else joined


class RandomPhotometricDistort(SizeAugmentation):
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


class PhotometricTransform(PixelTransform):
    """Changes colors only. Any of the factors may be None; ``order`` permutes the channels.

    All but the hue is linear and done at once, without rounding or clipping in between.
    """

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
        self.mean: float | None = None

    def for_image(self, img: np.ndarray) -> "PhotometricTransform":
        fixed = copy.copy(self)
        fixed.mean = _mean_gray(img)
        return fixed

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        mean = (_mean_gray(img) if self.mean is None else self.mean) * (self.brightness or 1)
        before = _brightness(np.eye(3, 4), self.brightness)
        if self.contrast_first:
            before = _contrast(before, self.contrast, mean)
        before = _saturation(before, self.saturation)
        after = np.eye(3, 4)
        if not self.contrast_first:
            after = _contrast(after, self.contrast, mean)
        if self.order is not None:
            after = after[self.order]
        if self.hue is None:
            return _apply_matrix(img, after @ np.vstack([before, [0, 0, 0, 1]]))
        return _apply_matrix(_shift_hue(_apply_matrix(img, before), self.hue), after)


_LUMA = np.array([0.299, 0.587, 0.114])


def _mean_gray(img: np.ndarray) -> float:
    return float(np.dot(_LUMA, cv2.mean(img)[:3]))


def _brightness(matrix: np.ndarray, factor: float | None) -> np.ndarray:
    return matrix if factor is None else matrix * factor


def _contrast(matrix: np.ndarray, factor: float | None, mean: float) -> np.ndarray:
    """Away from or towards ``mean``, the mean of the gray image."""
    if factor is None:
        return matrix
    return matrix * factor + np.array([0, 0, 0, mean * (1 - factor)])


def _saturation(matrix: np.ndarray, factor: float | None) -> np.ndarray:
    """Away from or towards each pixel's gray."""
    if factor is None:
        return matrix
    return (np.eye(3) * factor + (1 - factor) * _LUMA) @ matrix


def _apply_matrix(img: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return img if np.array_equal(matrix, np.eye(3, 4)) else cv2.transform(img, matrix)


def _shift_hue(img: np.ndarray, turns: float) -> np.ndarray:
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turns * 256) % 256)  # the circle of hues is 256 long, and wraps
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


class RandomZoomOut(SizeAugmentation):
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
        return AffineTransform(np.array([[1, 0, left], [0, 1, top]]), (height, width), canvas, self.fill)


class RandomIoUCrop(SizeAugmentation):
    """SSD's crop (arXiv 1512.02325, section 2.2) with probability ``prob``.

    A part with sides of 0.3 to 1 of the image's and aspect ratio 0.5 to 2 that overlaps some object
    by at least a random IoU. Objects whose center is outside are dropped: their boxes become empty. Without boxes, the image
    stays as it is.
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

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        # detectron2's mappers have no boxes in evaluation
        if np.random.uniform() >= self.prob or boxes is None or len(boxes) == 0:
            return NoOpTransform()
        size = image.shape[:2]
        while True:
            min_iou = np.random.choice(self.min_ious)
            if min_iou >= 1.0:  # always drawn after finitely many rounds: "keep the image" ends the search
                return NoOpTransform()
            windows = self._draw_windows(size)
            fitting = np.flatnonzero(_best_overlaps(boxes, windows) >= min_iou)
            if len(fitting):
                left, top, right, bottom = windows[fitting[0]].tolist()
                return IoUCropTransform((left, top, right, bottom), size)

    def _draw_windows(self, size: tuple[int, int]) -> np.ndarray:
        """(N, 4) int: those of ``trials`` random windows that have the wanted aspect ratio."""
        whole = np.array([size[1], size[0]])
        sides = (whole * np.random.uniform(*self.scale_range, (self.trials, 2))).astype(np.int64)
        corners = ((whole - sides) * np.random.uniform(size=(self.trials, 2))).astype(np.int64)
        with np.errstate(divide="ignore", invalid="ignore"):
            aspects = sides[:, 0] / sides[:, 1]
        fits = (sides > 0).all(axis=1) & (self.aspect_range[0] <= aspects) & (aspects <= self.aspect_range[1])
        return np.concatenate([corners, corners + sides], axis=1)[fits]


def _centered_inside(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(M, N) bool: the center of box n lies inside of window m."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((windows[:, None, :2] < centers) & (centers < windows[:, None, 2:])).all(axis=2)


def _best_overlaps(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(M,) the largest IoU of each window with a box that is centered in it, or -1 if there is none."""
    low = np.maximum(windows[:, None, :2], boxes[:, :2])
    high = np.minimum(windows[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    window_areas = (windows[:, 2:] - windows[:, :2]).prod(axis=1)[:, None]
    ious = shared / (areas + window_areas - shared)
    return np.where(_centered_inside(boxes, windows), ious, -1.0).max(axis=1)


class IoUCropTransform(AffineTransform):
    """Cut ``window`` (left, top, right, bottom) out of an image of ``size``; boxes centered outside of it
    become empty."""

    def __init__(self, window: tuple[int, int, int, int], size: tuple[int, int]):
        left, top, right, bottom = window
        super().__init__(np.array([[1, 0, -left], [0, 1, -top]]), size, (bottom - top, right - left))
        self.window = window

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        left, top, right, bottom = self.window
        corner = [left, top, left, top]
        cropped = np.clip(box, corner, [right, bottom, right, bottom]) - corner
        cropped[~_centered_inside(box, np.array([self.window]))[0]] = 0
        return cropped
