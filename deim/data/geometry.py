"""Affine image transforms, and their composition into a single pass.

Augmenting an image step by step costs one pass over its pixels per step. Nearly all steps are affine maps whose
parameters depend on the size of the image but not on its pixels. Their matrices are therefore sampled first, multiplied,
and applied in one pass, to an image decoded at the lowest resolution that the result needs.
"""

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from detectron2.data.transforms import Augmentation, NoOpTransform, RandomFlip, Transform
from fvcore.transforms.transform import HFlipTransform, VFlipTransform

if TYPE_CHECKING:
    from deim.data.object_shapes import ObjectShapes

# Maximum position error of an axis-aligned resize, in output pixels.
_TOLERANCE = 0.75


def rgb_to_rgba(img: np.ndarray) -> np.ndarray:
    """Convert an image (H, W, 3) uint8 to (H, W, 4): OpenCV warps four channels more than twice as fast as three."""
    return cv2.cvtColor(img, cv2.COLOR_RGB2RGBA)


def rgba_to_rgb(img: np.ndarray) -> np.ndarray:
    """Convert an image (H, W, 4) uint8 back to (H, W, 3)."""
    return cv2.cvtColor(img, cv2.COLOR_RGBA2RGB)


class AffineTransform(Transform):
    """Affine map of an image onto a canvas.

    Args:
        matrix: (2, 3); ``matrix @ (x, y, 1)`` is the position of an image point on the canvas. Pixel (i, j) covers the
            square from (i, j) to (i + 1, j + 1).
        size: (height, width) of the image.
        canvas: (height, width) of the result.
        fill: gray value outside of the image, 0 to 255.
    """

    def __init__(self, matrix: np.ndarray, size: tuple[int, int], canvas: tuple[int, int], fill: int = 0):
        super().__init__()
        self.matrix = np.asarray(matrix, dtype=np.float64)
        self.size, self.canvas, self.fill = size, canvas, fill

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if self.is_axis_aligned or img.dtype != np.uint8 or img.shape[2:] != (3,):
            covered = self.is_axis_aligned and not self.extends_beyond_image
            shape = (*self.canvas, *img.shape[2:])
            canvas = np.empty(shape, img.dtype) if covered else np.full(shape, self.fill, img.dtype)
            self.draw_on(canvas, img)
            return canvas
        canvas = np.full((*self.canvas, 4), self.fill, np.uint8)
        self.draw_on(canvas, rgb_to_rgba(img))
        return rgba_to_rgb(canvas)

    def draw_on(self, canvas: np.ndarray, img: np.ndarray) -> None:
        """Draw the image onto ``canvas`` in place; pixels that it does not cover are unchanged."""
        factor = self.reduction()
        if factor > 1:  # interpolation alone would skip pixels
            height, width = (max(side // factor, 1) for side in self.size)
            reduced = cv2.resize(img, (width, height), interpolation=cv2.INTER_AREA)
            self._for_resized_image((height, width), (self.size[0] / height, self.size[1] / width)).draw_on(
                canvas, reduced
            )
            return
        left, top, right, bottom = extent = self._extent()
        if bottom <= top or right <= left:
            return
        target = canvas[top:bottom, left:right]
        if not (self.is_axis_aligned and self._resize_onto(target, img, extent)):
            self._warp_onto(target, img, (left, top))

    def _resize_onto(self, target: np.ndarray, img: np.ndarray, extent: tuple[int, int, int, int]) -> bool:
        """Draw by a resize, twice as fast as a warp; return False if the position error would be too large."""
        scale, shift = np.diag(self.matrix[:, :2]), self.matrix[:, 2]
        ends = (np.array(extent, dtype=np.float64).reshape(2, 2) - shift) / scale
        window = np.sort(ends, axis=0).round().clip(0, self.size[::-1]).astype(np.int64)
        if (np.abs(np.sort(ends, axis=0) - window) * np.abs(scale)).max() > _TOLERANCE:
            return False
        (left, top), (right, bottom) = window.tolist()
        if bottom <= top or right <= left:
            return False
        size = target.shape[1::-1]
        if (scale > 0).all():
            cv2.resize(img[top:bottom, left:right], size, dst=target)
        else:
            axes = {(True, False): 1, (False, True): 0, (True, True): -1}[bool(scale[0] < 0), bool(scale[1] < 0)]
            cv2.flip(cv2.resize(img[top:bottom, left:right], size), axes, dst=target)
        return True

    def _warp_onto(self, target: np.ndarray, img: np.ndarray, corner: tuple[int, int]) -> None:
        # OpenCV places pixel centers at integer coordinates; here they are at (i + 0.5, j + 0.5).
        matrix = self.matrix.copy()
        matrix[:, 2] += self.matrix[:, :2] @ [0.5, 0.5] - 0.5 - corner
        # An axis-aligned image fills its extent; around a rotated one the canvas must not change.
        border = cv2.BORDER_REPLICATE if self.is_axis_aligned else cv2.BORDER_TRANSPARENT
        cv2.warpAffine(img, matrix, target.shape[1::-1], dst=target, borderMode=border)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords @ self.matrix[:, :2].T + self.matrix[:, 2]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Map labels (H, W) or masks (H, W, N) by nearest neighbor; 0 outside of the image."""
        # OpenCV does not support 32-bit and 64-bit integers; float64 represents every label exactly.
        labels: Any = segmentation
        if segmentation.dtype not in (np.uint8, np.uint16, np.int16, np.float32, np.float64):
            labels = segmentation.astype(np.uint8 if segmentation.dtype == bool else np.float64)
        matrix = self.matrix.copy()
        matrix[:, 2] += self.matrix[:, :2] @ [0.5, 0.5] - 0.5
        mapped = cv2.warpAffine(labels, matrix, self.canvas[::-1], flags=cv2.INTER_NEAREST)
        return mapped.astype(segmentation.dtype).reshape(*self.canvas, *segmentation.shape[2:])

    def inverse(self) -> "AffineTransform":
        """Return the map from the canvas to the image, like detectron2's transforms."""
        return AffineTransform(cv2.invertAffineTransform(self.matrix), self.canvas, self.size, self.fill)

    def then(self, other: "AffineTransform") -> "AffineTransform | None":
        """Return the composition of both maps; None if one pass cannot fill the area outside of the image as two would."""
        fill = self.fill
        if other.extends_beyond_image:
            # The second map shows an area outside of the first canvas. Pixels that the first map cut off must not
            # reappear in this area.
            if self._crops_image or (self.extends_beyond_image and self.fill != other.fill):
                return None
            fill = other.fill
        matrix = other.matrix @ np.vstack([self.matrix, [0, 0, 1]])
        return AffineTransform(matrix, self.size, other.canvas, fill)

    def reduction(self) -> int:
        """Return the largest factor (1, 2, 4 or 8) by which decoding can be reduced without losing visible detail."""
        (a, b, _), (c, d, _) = self.matrix.tolist()
        squares, determinant = a * a + b * b + c * c + d * d, a * d - b * c
        # Largest singular value, in closed form: NumPy's SVD would dominate the cost per image.
        scale = math.sqrt((squares + math.sqrt(max(squares**2 - 4 * determinant**2, 0))) / 2)
        return next((factor for factor in (8, 4, 2) if scale * factor <= 1 and factor <= min(self.size)), 1)

    def for_reduced_image(self, factor: int) -> "AffineTransform":
        """Return the same map for an image decoded at ``1 / factor`` of its size."""
        height, width = self.size
        return self._for_resized_image((-(-height // factor), -(-width // factor)), (factor, factor))

    def _for_resized_image(self, size: tuple[int, int], factors: tuple[float, float]) -> "AffineTransform":
        return AffineTransform(self.matrix * [factors[1], factors[0], 1], size, self.canvas, self.fill)

    def for_crop(self, window: tuple[int, int, int, int]) -> "AffineTransform":
        """Return the same map for the part of the image in ``window`` (left, top, right, bottom)."""
        left, top, right, bottom = window
        matrix = self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ [left, top]
        return AffineTransform(matrix, (bottom - top, right - left), self.canvas, self.fill)

    def visible_window(self) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) of the visible part of the image with a one-pixel margin, or of the whole
        image if no part is visible."""
        height, width = self.size
        left, top, right, bottom = _bounds(cv2.invertAffineTransform(self.matrix), self.canvas)
        left, top = max(int(np.floor(left)) - 1, 0), max(int(np.floor(top)) - 1, 0)
        right, bottom = min(int(np.ceil(right)) + 1, width), min(int(np.ceil(bottom)) + 1, height)
        return (left, top, right, bottom) if left < right and top < bottom else (0, 0, width, height)

    @property
    def is_axis_aligned(self) -> bool:
        """True if the sides of the image are parallel to those of the canvas, so that the map is a resize or a flip."""
        return not self.matrix[0, 1] and not self.matrix[1, 0]

    def _extent(self) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) of the canvas pixels that the image covers."""
        left, top, right, bottom = _bounds(self.matrix, self.size)
        if self.is_axis_aligned:  # pixels that are at least half covered
            left, top, right, bottom = round(left), round(top), round(right), round(bottom)
        height, width = self.canvas
        return (
            max(int(np.floor(left)), 0),
            max(int(np.floor(top)), 0),
            min(int(np.ceil(right)), width),
            min(int(np.ceil(bottom)), height),
        )

    @property
    def _crops_image(self) -> bool:
        """Whether the canvas cuts off part of the image."""
        return _exceeds(_bounds(self.matrix, self.size), self.canvas)

    @property
    def extends_beyond_image(self) -> bool:
        """Whether the canvas extends beyond the image."""
        return _exceeds(_bounds(cv2.invertAffineTransform(self.matrix), self.canvas), self.size)


def _bounds(matrix: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of an image of ``size`` (height, width) after the map."""
    height, width = size
    (a, b, x), (c, d, y) = matrix.tolist()
    return (
        x + min(a * width, 0) + min(b * height, 0),
        y + min(c * width, 0) + min(d * height, 0),
        x + max(a * width, 0) + max(b * height, 0),
        y + max(c * width, 0) + max(d * height, 0),
    )


def _exceeds(bounds: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    left, top, right, bottom = bounds
    return min(left, top) < -1e-6 or bottom > size[0] + 1e-6 or right > size[1] + 1e-6


class SizeAugmentation(Augmentation):
    """Augmentation whose parameters depend on the image size and the boxes, but not on pixels."""


class PixelTransform(Transform):
    """Transform that moves no pixels and is independent of the image resolution."""

    def fix_statistics(self, img: np.ndarray) -> "PixelTransform":
        """Return a transform that uses the statistics of ``img``, such as its mean, when applied to a part of ``img``."""
        return self

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        """Return a no-op, like fvcore's color transforms: coordinates do not change."""
        return NoOpTransform()


def as_affine(transform: Transform, size: tuple[int, int]) -> AffineTransform | None:
    """Return a transform of an image of ``size`` as an affine map; None if it is not known to be affine."""
    height, width = size
    if isinstance(transform, AffineTransform):
        return transform
    if type(transform) is HFlipTransform:
        return AffineTransform(np.array([[-1, 0, width], [0, 1, 0]]), size, size)
    if type(transform) is VFlipTransform:
        return AffineTransform(np.array([[1, 0, 0], [0, -1, height]]), size, size)
    return None


class LazyImage:
    """Image and its objects; pixels are read and transformed only when needed.

    Args:
        source: the image, uint8 (H, W, 3), or a function factor -> the image at ``1 / factor`` of its size (1, 2, 4 or
            8).
        size: (height, width) of the full-size image.
        boxes: (N, 4) XYXY in pixels.
        shapes: masks and keypoints of the objects; None without them.
    """

    def __init__(
        self,
        source: np.ndarray | Callable[[int], np.ndarray],
        size: tuple[int, int],
        boxes: np.ndarray,
        shapes: "ObjectShapes | None" = None,
    ):
        self.source, self.size, self.boxes, self.shapes = source, size, boxes, shapes
        self._pending: list[PixelTransform | AffineTransform] = []

    @property
    def image(self) -> np.ndarray:
        """The current image, for augmentations that read it themselves."""
        return self.render()

    def augment(self, policy: Augmentation | Transform) -> None:
        """Apply an augmentation or a fixed transform, as detectron2's ``AugmentationList`` does.

        An augmentation that overrides ``__call__``, such as ``RandomApply``, receives this object instead of an
        ``AugInput``. Pixels are rendered only if the augmentation may need them.
        """
        if isinstance(policy, Transform):
            self.transform(policy)
            return
        if type(policy).__call__ is not Augmentation.__call__:
            policy(self)
            return
        if isinstance(policy, SizeAugmentation) or type(policy) is RandomFlip:
            image = np.broadcast_to(np.uint8(0), (*self.size, 3))
        else:
            image = self.render()
        arguments = {"image": image, "boxes": self.boxes}
        if policy.input_args is None:  # as in detectron2: a single argument is the image, several are matched by name
            names = tuple(inspect.signature(policy.get_transform).parameters)
            policy.input_args = ("image",) if len(names) == 1 else names
        self.transform(policy.get_transform(*(arguments[name] for name in policy.input_args)))

    def transform(self, transform: Transform) -> None:
        """Apply a transform to the image, lazily if possible, and to its objects."""
        if isinstance(transform, NoOpTransform):
            return
        affine = as_affine(transform, self.size)
        if self.shapes is not None:
            self.shapes.transform(affine or transform, self.size)
        if affine is not None:
            self._append_affine(affine)
            self.size = affine.canvas
        elif isinstance(transform, PixelTransform):
            self._pending.append(transform)
        else:
            self._set_source(transform.apply_image(self.render()))
        if len(self.boxes):
            self.boxes = transform.apply_box(self.boxes)

    def render(self) -> np.ndarray:
        """Apply all pending transforms and return the image (height, width, 3)."""
        image = self._read_visible()
        for transform in self._pending:
            image = transform.apply_image(image)
        self._set_source(image)
        return image

    def _read_visible(self) -> np.ndarray:
        """Read the visible part of the source, and adapt the pending transforms to it."""
        index = next((i for i, t in enumerate(self._pending) if isinstance(t, AffineTransform)), None)
        if index is None:
            image = self.source if isinstance(self.source, np.ndarray) else self.source(1)
            return np.require(image, requirements=["WRITEABLE"])  # a user's augmentation may modify it in place
        affine = self._pending[index]
        assert isinstance(affine, AffineTransform)
        image, affine = self.read_reduced(affine)
        if index <= 1:  # a second color transform would need the whole image after the first
            left, top, right, bottom = window = affine.visible_window()
            self._pending[:index] = [
                t.fix_statistics(image) for t in self._pending[:index] if isinstance(t, PixelTransform)
            ]
            image, affine = image[top:bottom, left:right], affine.for_crop(window)
        self._pending[index] = affine
        return image

    def read_reduced(self, transform: AffineTransform) -> tuple[np.ndarray, AffineTransform]:
        """Return the source, decoded at the lowest resolution that ``transform`` needs, and the adapted transform."""
        if isinstance(self.source, np.ndarray):
            return self.source, transform
        factor = transform.reduction()
        return self.source(factor), transform.for_reduced_image(factor)

    def _append_affine(self, affine: AffineTransform) -> None:
        last = self._pending[-1] if self._pending else None
        composed = last.then(affine) if isinstance(last, AffineTransform) else None
        if composed is None:
            self._pending.append(affine)
        else:
            self._pending[-1] = composed

    def _set_source(self, image: np.ndarray) -> None:
        self.source, self.size, self._pending = image, (image.shape[0], image.shape[1]), []
