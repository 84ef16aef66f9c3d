"""``deim_shapes``: a small synthetic detection dataset in COCO format.

Each image has a textured background and one to eight filled shapes of six classes, which may overlap. Shape sizes are
8 % to 45 % of the shorter image side. The same seed gives the same files. Masks and keypoints are optional.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deim.data.datasets.polygons import mask_to_polygons

CLASSES = ("circle", "square", "triangle", "star", "ring", "cross")
# Maximum fraction of a shape that later shapes may cover.
_MAX_HIDDEN = 0.5
KEYPOINTS = ("center", "top", "bottom", "left_tip", "right_tip")
# Connections between keypoints, which COCO numbers from 1: the center with each of the others.
_SKELETON = [[1, number] for number in range(2, 6)]


def _regular(corners: int, inner: float, angle: float) -> np.ndarray:
    """Return the (N, 2) outline in the unit circle; every second corner is at radius ``inner``."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + angle
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]


def _cross(angle: float) -> np.ndarray:
    a, b = 1.0, 0.35
    outline = [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
        (-b, -b),
    ]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array(outline) / np.hypot(a, b) @ np.array([[cos, sin], [-sin, cos]])


OUTLINES: dict[str, Callable[[float], np.ndarray]] = {
    "circle": lambda angle: _regular(48, 1.0, angle),
    "square": lambda angle: _regular(4, 1.0, angle),
    "triangle": lambda angle: _regular(3, 1.0, angle),
    "star": lambda angle: _regular(10, 0.45, angle),
    "ring": lambda angle: _regular(48, 1.0, angle),
    "cross": _cross,
}


def draw_mask(name: str, outline: np.ndarray, center: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
    """Return the (H, W) uint8 mask of one shape."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    if name == "ring":
        cv2.circle(mask, tuple(int(c) for c in np.round(center * 16)), int(radius * 0.55 * 16), 0, -1, cv2.LINE_AA, 4)
    return mask


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return a (H, W, 3) uint8 background: smooth noise at two scales around a random color, plus fine grain."""
    height, width = size
    image = np.full((height, width, 3), rng.uniform(60, 190, 3), np.float32)
    for cells, strength in ((4, 45), (24, 20)):
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)


@dataclass
class DrawnShape:
    """Shape in an image.

    Attributes:
        class_index: index in ``CLASSES``.
        mask: (H, W) bool, the visible pixels.
        area: number of pixels before other shapes covered any.
        keypoints: (5, 3) x, y, visibility of ``KEYPOINTS``; coordinates are those of pixel centers: the center of pixel
            0 is at 0. Visibility as in COCO: 2 visible, 1 covered by another shape, 0 (with x and y of 0) outside of the
            image or not labeled.
    """

    class_index: int
    mask: np.ndarray
    area: int
    keypoints: np.ndarray

    def cover(self, pixels: np.ndarray) -> None:
        """Draw another shape with the given pixels, (H, W) bool, over this shape."""
        self.mask = self.mask & ~pixels
        columns, rows = np.round(self.keypoints[:, :2]).astype(int).T
        is_covered = pixels[rows.clip(0, pixels.shape[0] - 1), columns.clip(0, pixels.shape[1] - 1)]
        self.keypoints[is_covered & (self.keypoints[:, 2] > 0), 2] = 1


def draw_image(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """Draw an image (H, W, 3) uint8 BGR; return it with its objects: (class index, XYWH box of the visible part)."""
    image, shapes = draw_shapes(rng, size)
    return image, [(shape.class_index, visible_box(shape.mask)) for shape in shapes]


def draw_shapes(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, list[DrawnShape]]:
    """Draw an image (H, W, 3) uint8 BGR; return it with its shapes, the last of which is on top."""
    image = draw_background(rng, size)
    height, width = size
    placed: list[DrawnShape] = []
    for _ in range(rng.integers(1, 9)):
        index = int(rng.integers(len(CLASSES)))
        radius = min(size) * 0.5 * rng.uniform(0.08, 0.45)
        center = rng.uniform([radius, radius], [width - radius, height - radius])
        outline = OUTLINES[CLASSES[index]](rng.uniform(0, 2 * np.pi)) * radius + center
        mask = draw_mask(CLASSES[index], outline, center, radius, size)
        covered = mask > 127
        if any((shape.mask & ~covered).sum() < shape.area * (1 - _MAX_HIDDEN) for shape in placed):
            continue
        for shape in placed:
            shape.cover(covered)
        color = contrasting_color(rng, image[covered].mean(axis=0))
        opacity = mask[..., None] / 255.0
        shaded = color + rng.normal(0, 8, (*size, 1))
        image = (image * (1 - opacity) + shaded * opacity).clip(0, 255).astype(np.uint8)
        keypoints = _keypoints(CLASSES[index], outline, center, size)
        placed.append(DrawnShape(index, covered, int(covered.sum()), keypoints))
    return image, placed


def _keypoints(name: str, outline: np.ndarray, center: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the keypoints of a shape that no other shape covers; see :class:`DrawnShape`.

    The center of a ring is not labeled, because it is not part of the ring.
    """
    x, y = outline.T
    points = np.stack([center, outline[y.argmin()], outline[y.argmax()], outline[x.argmin()], outline[x.argmax()]])
    is_labeled = np.all((points >= -0.5) & (points <= np.array(size[::-1]) - 0.5), axis=1, keepdims=True)
    is_labeled[0] &= name != "ring"
    return np.concatenate([points, np.full((len(points), 1), 2.0)], axis=1) * is_labeled


def contrasting_color(rng: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """Draw a color that contrasts with the background color."""
    while True:
        color = rng.uniform(0, 255, 3)
        if np.abs(color - behind).sum() > 120:
            return color


def visible_box(mask: np.ndarray) -> list[float]:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return [float(x), float(y), float(width), float(height)]


def coco_annotation(annotation_id: int, image_id: int, category_id: int, box: list[float]) -> dict:
    """Return a COCO annotation; ``box`` is XYWH."""
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def shape_annotation(annotation_id: int, image_id: int, category_id: int, shape: DrawnShape, masks: bool) -> dict:
    """Return the COCO annotation of a shape; with ``masks``, its visible pixels as polygons and their number as the area."""
    annotation = coco_annotation(annotation_id, image_id, category_id, visible_box(shape.mask))
    return annotation | (_mask_entries(shape) if masks else {})


def _mask_entries(shape: DrawnShape) -> dict[str, Any]:
    return {"area": float(shape.mask.sum()), "segmentation": mask_to_polygons(shape.mask)}


def _keypoint_entries(shape: DrawnShape) -> dict[str, Any]:
    numbers = [round(value, 2) for value in shape.keypoints.ravel().tolist()]
    numbers[2::3] = [int(value) for value in numbers[2::3]]
    return {"keypoints": numbers, "num_keypoints": sum(value > 0 for value in numbers[2::3])}


def write_shapes(
    folder: str | Path,
    train_images: int = 600,
    val_images: int = 100,
    size: int = 192,
    seed: int = 7,
    masks: bool = False,
    keypoints: bool = False,
) -> Iterator[tuple[int, int]]:
    """Write ``train/``, ``val/`` and ``annotations/instances_{train,val}.json`` under ``folder``.

    Args:
        size: longer side of the images in pixels; images are square, 4:3 or 3:4.
        masks: whether to write the visible pixels of each shape as polygons; ``area`` is then the area of the mask.
        keypoints: whether to write the keypoints of each shape.

    Yields:
        (images written, total images) after each image.
    """
    folder = Path(folder)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    written, total = 0, train_images + val_images
    for split_number, (split, count) in enumerate((("train", train_images), ("val", val_images))):
        (folder / split).mkdir(exist_ok=True)
        images: list[dict] = []
        annotations: list[dict] = []
        for number in range(count):
            rng = np.random.default_rng([seed, split_number, number])
            short = size * 3 // 4
            height, width = [(size, size), (short, size), (size, short)][int(rng.integers(3))]
            image, shapes = draw_shapes(rng, (height, width))
            name = f"{number:06d}.jpg"
            cv2.imwrite(str(folder / split / name), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
            for shape in shapes:
                annotation = shape_annotation(len(annotations) + 1, number + 1, shape.class_index + 1, shape, masks)
                annotation |= _keypoint_entries(shape) if keypoints else {}
                annotations.append(annotation)
            written += 1
            yield written, total
        skeleton = {"keypoints": list(KEYPOINTS), "skeleton": _SKELETON} if keypoints else {}
        categories = [{"id": i + 1, "name": name} | skeleton for i, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
