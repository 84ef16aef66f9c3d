"""Augmentations of DEIM and D-FINE as detectron2 augmentations.

RT-DETR took them from torchvision's detection references. All draw from NumPy's global generator, like detectron2's
augmentations; the train loader seeds it for each sample.
"""

import copy
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data.transforms import NoOpTransform, Transform

from deim.data.geometry import AffineTransform, PixelTransform, SizeAugmentation
from deim.errors import ConfigError


class Resize(SizeAugmentation):
    """Resize to ``shape`` (height, width) with OpenCV, with area averaging when both sides shrink to half or less.

    Several times faster than detectron2's ``Resize``, which uses PIL.
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
    """Resize so that the shorter side has a length drawn from ``lengths`` and the longer side has at most ``max_size``
    pixels. Like detectron2's ``ResizeShortestEdge``, but with OpenCV instead of PIL."""

    def __init__(self, lengths: Sequence[int], max_size: int | None = None):
        super().__init__()
        self.lengths, self.max_size = list(lengths), max_size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        scale = np.random.choice(self.lengths) / min(height, width)
        if self.max_size is not None:
            scale = min(scale, self.max_size / max(height, width))
        return Resize((max(round(height * scale), 1), max(round(width * scale), 1))).get_transform(image)


class RandomSizeCrop(SizeAugmentation):
    """Crop with sides drawn from ``min_size`` to ``max_size`` pixels, limited by the image size (DETR, arXiv
    2005.12872, appendix A.4)."""

    def __init__(self, min_size: int, max_size: int):
        super().__init__()
        self.min_size, self.max_size = min_size, max_size

    def get_transform(self, image: np.ndarray) -> Transform:
        size = image.shape[:2]
        height, width = (self._draw_side(side) for side in size)
        top, left = (np.random.randint(side - part + 1) for side, part in zip(size, (height, width), strict=True))
        return AffineTransform(np.array([[1, 0, -left], [0, 1, -top]]), size, (height, width))

    def _draw_side(self, side: int) -> int:
        low, high = min(self.min_size, side), min(self.max_size, side)
        return int(np.random.randint(low, high + 1))


class OneOf(SizeAugmentation):
    """Apply one of several lists of augmentations, chosen uniformly.

    Args:
        choices: lists of augmentations. Their transforms must be affine (:mod:`deim.data.geometry`) and composable.

    Raises:
        ConfigError: if the transforms of a list cannot be composed; raised when the list is applied.
    """

    def __init__(self, choices: Sequence[Sequence[SizeAugmentation]]):
        super().__init__()
        self.choices = [list(choice) for choice in choices]

    def get_transform(self, image: np.ndarray) -> Transform:
        composed: AffineTransform | None = None
        for policy in self.choices[np.random.randint(len(self.choices))]:
            size = image.shape[:2] if composed is None else composed.canvas
            transform = policy.get_transform(np.broadcast_to(np.uint8(0), (*size, 3)))
            if isinstance(transform, NoOpTransform):
                continue
            extended = transform if composed is None else composed.then(transform)
            if not isinstance(extended, AffineTransform):
                raise ConfigError(
                    f"OneOf: the transform of {type(policy).__name__} is not affine, or cannot be composed with the "
                    "preceding transforms of its list; apply this augmentation outside of OneOf"
                )
            composed = extended
        return NoOpTransform() if composed is None else composed


class RandomPhotometricDistort(SizeAugmentation):
    """Change brightness, contrast, saturation, hue and the channel order, each with probability ``prob``.

    Args:
        prob: probability of each change.
        brightness, contrast, saturation: ranges of the factors.
        hue: range of the shift, in turns (1 is the full color circle).
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
        def draw_or_skip(limits: tuple[float, float]) -> float | None:
            value = np.random.uniform(*limits)
            return value if np.random.uniform() < self.prob else None

        brightness, contrast = draw_or_skip(self.brightness), draw_or_skip(self.contrast)
        saturation, hue = draw_or_skip(self.saturation), draw_or_skip(self.hue)
        contrast_first = np.random.uniform() < 0.5
        order = np.random.permutation(3) if np.random.uniform() < self.prob else None
        return PhotometricTransform(brightness, contrast, saturation, hue, contrast_first, order)


class ColorJitter(SizeAugmentation):
    """Change brightness, contrast, saturation and hue together, with probability ``prob`` (DETRPose).

    The contrast changes before the other colors or after them.

    Args:
        prob: probability of the augmentation.
        brightness, contrast, saturation: ranges of the factors.
        hue: range of the shift, in turns (1 is the full color circle).
    """

    def __init__(
        self,
        prob: float = 0.5,
        brightness: tuple[float, float] = (0.6, 1.4),
        contrast: tuple[float, float] = (0.6, 1.4),
        saturation: tuple[float, float] = (0.6, 1.4),
        hue: tuple[float, float] = (-0.4, 0.4),
    ):
        super().__init__()
        self.prob, self.hue = prob, hue
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def get_transform(self, image: np.ndarray) -> Transform:
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        brightness, contrast = np.random.uniform(*self.brightness), np.random.uniform(*self.contrast)
        saturation, hue = np.random.uniform(*self.saturation), np.random.uniform(*self.hue)
        return PhotometricTransform(brightness, contrast, saturation, hue, np.random.uniform() < 0.5, None)


class PhotometricTransform(PixelTransform):
    """Color transform. None skips a step; ``order`` permutes the channels.

    All steps except the hue shift are linear. The steps before the hue shift are combined into one matrix, and so are
    those after it, without intermediate rounding or clipping. The contrast always refers to the mean gray value before
    the hue shift.
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

    def fix_statistics(self, img: np.ndarray) -> "PhotometricTransform":
        transform = copy.copy(self)
        transform.mean = _mean_gray(img)
        return transform

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        mean = _mean_gray(img) if self.mean is None else self.mean
        mean *= 1 if self.brightness is None else self.brightness
        before = _brightness(np.eye(3, 4), self.brightness)  # matrix of the steps before the hue shift
        if self.contrast_first:
            before = _contrast(before, self.contrast, mean)
        before = _saturation(before, self.saturation)
        after = np.eye(3, 4)  # matrix of the steps after the hue shift
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
    """Scale the contrast relative to ``mean``, the mean gray value of the image."""
    if factor is None:
        return matrix
    return matrix * factor + np.array([0, 0, 0, mean * (1 - factor)])


def _saturation(matrix: np.ndarray, factor: float | None) -> np.ndarray:
    """Scale the saturation relative to the gray value of each pixel."""
    if factor is None:
        return matrix
    return (np.eye(3) * factor + (1 - factor) * _LUMA) @ matrix


def _apply_matrix(img: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return img if np.array_equal(matrix, np.eye(3, 4)) else cv2.transform(img, matrix)


def _shift_hue(img: np.ndarray, turns: float) -> np.ndarray:
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL)
    # Hue is circular with period 256, so uint8 overflow is intended. Adding to whole rows is faster than to one channel.
    shift = np.array([round(turns * 256) % 256, 0, 0], dtype=np.uint8)
    hsv.reshape(len(hsv), -1)[:] += np.tile(shift, hsv.shape[1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


class RandomZoomOut(SizeAugmentation):
    """With probability ``prob``, place the image at a random position on a larger canvas.

    Args:
        prob: probability of the augmentation.
        side_range: range of the canvas size relative to the image.
        fill: gray value around the image, 0 to 255.
        centered: place the image in the center of the canvas (DETRPose).
    """

    def __init__(
        self,
        prob: float = 0.5,
        side_range: tuple[float, float] = (1.0, 4.0),
        fill: int = 0,
        centered: bool = False,
    ):
        super().__init__()
        self.prob, self.side_range, self.fill, self.centered = prob, side_range, fill, centered

    def get_transform(self, image: np.ndarray) -> Transform:
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        factor = np.random.uniform(*self.side_range)
        canvas = (int(height * factor), int(width * factor))
        top, left = (
            int((outer - side) * self._draw_position()) for outer, side in zip(canvas, (height, width), strict=True)
        )
        return AffineTransform(np.array([[1, 0, left], [0, 1, top]]), (height, width), canvas, self.fill)

    def _draw_position(self) -> float:
        return 0.5 if self.centered else np.random.uniform()


class RandomIoUCrop(SizeAugmentation):
    """SSD's random crop (arXiv 1512.02325, section 2.2) with probability ``prob``.

    The crop overlaps at least one object with at least a randomly chosen IoU. Objects whose center is outside of the
    crop are dropped: their boxes become empty, and the mappers drop their masks and keypoints as well. Images without
    boxes are unchanged.

    Args:
        prob: probability of the augmentation.
        scale_range: range of the crop sides relative to the image.
        aspect_range: range of the aspect ratio, width / height.
        min_ious: minimum IoUs to choose from; 1 or more leaves the image unchanged. At least one must be 1 or more.
        trials: number of windows drawn per chosen IoU.

    Raises:
        ConfigError: if all ``min_ious`` are less than 1, so that no number of trials is certain to succeed.
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
        if max(min_ious, default=0) < 1:
            raise ConfigError(f"RandomIoUCrop: min_ious must contain 1, which ends the search, got {list(min_ious)}")
        self.prob, self.scale_range, self.aspect_range = prob, scale_range, aspect_range
        self.min_ious, self.trials = tuple(min_ious), trials

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        # detectron2's mappers pass no boxes in evaluation.
        if np.random.uniform() >= self.prob or boxes is None or len(boxes) == 0:
            return NoOpTransform()
        size = image.shape[:2]
        while True:
            min_iou = np.random.choice(self.min_ious)
            if min_iou >= 1.0:  # The loop terminates because this value is eventually drawn.
                return NoOpTransform()
            windows = self._draw_windows(size)
            accepted = np.flatnonzero(_best_overlaps(boxes, windows) >= min_iou)
            if len(accepted):
                left, top, right, bottom = windows[accepted[0]].tolist()
                return IoUCropTransform((left, top, right, bottom), size)

    def _draw_windows(self, size: tuple[int, int]) -> np.ndarray:
        """Draw ``trials`` random windows; return those with a valid aspect ratio, (N, 4) int XYXY."""
        image_width_height = np.array([size[1], size[0]])
        sides = (image_width_height * np.random.uniform(*self.scale_range, (self.trials, 2))).astype(np.int64)
        corners = ((image_width_height - sides) * np.random.uniform(size=(self.trials, 2))).astype(np.int64)
        with np.errstate(divide="ignore", invalid="ignore"):
            aspects = sides[:, 0] / sides[:, 1]
        fits = (sides > 0).all(axis=1) & (self.aspect_range[0] <= aspects) & (aspects <= self.aspect_range[1])
        return np.concatenate([corners, corners + sides], axis=1)[fits]


def _centered_inside(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return (M, N) bool: whether the center of box n is inside of window m."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((windows[:, None, :2] < centers) & (centers < windows[:, None, 2:])).all(axis=2)


def _best_overlaps(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return (M,) the largest IoU of each window with a box centered in it; -1 if there is no such box."""
    low = np.maximum(windows[:, None, :2], boxes[:, :2])
    high = np.minimum(windows[:, None, 2:], boxes[:, 2:])
    intersections = (high - low).clip(min=0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    window_areas = (windows[:, 2:] - windows[:, :2]).prod(axis=1)[:, None]
    ious = intersections / (areas + window_areas - intersections)
    return np.where(_centered_inside(boxes, windows), ious, -1.0).max(axis=1)


class DropSmallBoxes(SizeAugmentation):
    """Drop objects whose box has a side of less than ``min_size`` pixels: the box becomes empty.

    ``min_box_size`` of the mappers applies to the resized image. This augmentation applies to the image at its position
    in the list, for example before the resize.
    """

    input_args = ("image", "boxes")

    def __init__(self, min_size: float):
        super().__init__()
        self.min_size = min_size

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        if boxes is None or len(boxes) == 0:
            return NoOpTransform()
        transform = SmallBoxTransform(self.min_size, image.shape[:2])
        return transform if transform.is_small(boxes).any() else NoOpTransform()


class SmallBoxTransform(AffineTransform):
    """Transform that makes boxes with a side of less than ``min_size`` pixels empty, in an unchanged image of ``size``."""

    def __init__(self, min_size: float, size: tuple[int, int]):
        super().__init__(np.eye(2, 3), size, size)
        self.min_size = min_size

    def is_small(self, boxes: np.ndarray) -> np.ndarray:
        """Return (N,) bool: whether the part of the box inside of the image is small."""
        height, width = self.size
        clipped = boxes.clip(0, [width, height, width, height])
        return (clipped[:, 2:] - clipped[:, :2] < self.min_size).any(axis=1)

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        return np.where(self.is_small(box)[:, None], 0.0, box)


class IoUCropTransform(AffineTransform):
    """Crop of ``window`` (left, top, right, bottom) from an image of ``size``; boxes centered outside of the window
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
