"""Videos of moving shapes with known identities, to measure and test tracking.

The shapes are those of ``deim_shapes``. They move in straight lines, bounce off the borders, turn, and pass in front of each
other. The same seed gives the same video.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deim.data.datasets.shapes import (
    CLASSES,
    OUTLINES,
    contrasting_color,
    draw_background,
    draw_mask,
    visible_box,
)

# Fraction of a shape that must be visible for its box to be in the ground truth.
MIN_VISIBLE = 0.25


@dataclass(frozen=True)
class VisibleShape:
    """Shape in a frame.

    Attributes:
        identity: number of the shape in the video, from 1.
        class_index: index in ``CLASSES``.
        box: left, top, right and bottom of the visible part in pixels.
        visibility: visible fraction of the shape.
    """

    identity: int
    class_index: int
    box: tuple[float, float, float, float]
    visibility: float


@dataclass
class _MovingShape:
    class_index: int
    radius: float
    center: np.ndarray
    velocity: np.ndarray
    angle: float
    turn: float
    color: np.ndarray

    def move(self, size: tuple[int, int]) -> None:
        """Move to the next frame; the center stays in the image."""
        self.center += self.velocity
        self.angle += self.turn
        for axis, length in enumerate(size[::-1]):
            if not self.radius <= self.center[axis] <= length - self.radius:
                self.velocity[axis] *= -1
                self.center[axis] = np.clip(self.center[axis], self.radius, length - self.radius)

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """Return the opacity of the pixels, (H, W) uint8."""
        name = CLASSES[self.class_index]
        outline = OUTLINES[name](self.angle) * self.radius + self.center
        return draw_mask(name, outline, self.center, self.radius, size)


def draw_video(
    seed: int,
    num_frames: int = 150,
    num_shapes: int = 6,
    size: tuple[int, int] = (320, 320),
    speed: float = 0.012,
) -> Iterator[tuple[np.ndarray, list[VisibleShape]]]:
    """Yield the frames, (H, W, 3) uint8 RGB, and the shapes that are visible in each.

    Args:
        seed: seed of everything random.
        num_shapes: number of shapes, which stay in the image for the whole video.
        size: (height, width) of the frames.
        speed: mean distance that a shape moves in a frame, as a fraction of the shorter side.
    """
    rng = np.random.default_rng(seed)
    background = draw_background(rng, size)
    shapes = [_random_shape(rng, size, background, speed) for _ in range(num_shapes)]
    for _ in range(num_frames):
        yield _draw_frame(rng, background, shapes, size)
        for shape in shapes:
            shape.move(size)


def _random_shape(
    rng: np.random.Generator, size: tuple[int, int], background: np.ndarray, speed: float
) -> _MovingShape:
    radius = min(size) * 0.5 * rng.uniform(0.12, 0.35)
    direction = rng.uniform(0, 2 * np.pi)
    distance = min(size) * speed * rng.uniform(0.5, 1.5)
    return _MovingShape(
        int(rng.integers(len(CLASSES))),
        radius,
        rng.uniform(radius, np.array(size[::-1]) - radius),
        np.array([np.cos(direction), np.sin(direction)]) * distance,
        rng.uniform(0, 2 * np.pi),
        rng.uniform(-0.05, 0.05),
        contrasting_color(rng, background.reshape(-1, 3).mean(axis=0)),
    )


def _draw_frame(
    rng: np.random.Generator, background: np.ndarray, shapes: list[_MovingShape], size: tuple[int, int]
) -> tuple[np.ndarray, list[VisibleShape]]:
    """Draw the shapes in their order, the last on top."""
    image: np.ndarray = background.astype(np.float32)
    masks = [shape.mask(size) for shape in shapes]
    for shape, mask in zip(shapes, masks, strict=True):
        opacity = mask[..., None] / 255.0
        image = image * (1 - opacity) + shape.color * opacity
    frame = (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
    visible = []
    covered = np.zeros(size, bool)
    for index in reversed(range(len(shapes))):
        pixels = masks[index] > 127
        remaining = pixels & ~covered
        covered |= pixels
        visibility = float(remaining.sum() / max(pixels.sum(), 1))
        if visibility >= MIN_VISIBLE:
            left, top, width, height = visible_box(remaining)
            box = (left, top, left + width, top + height)
            visible.append(VisibleShape(index + 1, shapes[index].class_index, box, visibility))
    return frame, visible[::-1]
