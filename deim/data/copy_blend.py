"""Copy-blend: objects of other images of the batch are blended into an image (Dense O2O of DEIMv2, arXiv 2509.20787)."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

from deim.data.batch_operations import BatchOperation
from deim.data.masks import clip_polygon
from deim.errors import ConfigError

# (left, top, right, bottom) in pixels
_Window: TypeAlias = tuple[int, int, int, int]


class CopyBlend(BatchOperation):
    """Blending of objects into every image of a batch, at random positions.

    The batch is divided into groups of ``group_size`` consecutive images. Each image gets ``num_objects`` different
    objects of its group, which may be its own. An object is the content of its box and of a margin around the box, with
    the part of its mask and the keypoints there. The objects below keep their boxes, masks and keypoints.

    Args:
        prob, ratio, epochs: see :class:`BatchOperation`.
        min_area: minimum area of a copied box, in square pixels of the augmented image.
        num_objects: number of objects that each image gets; all objects of the group if the group has fewer.
        random_num_objects: draw the number of objects from 1 to ``num_objects``.
        expand_ratio: range of the margin on each side of the box, relative to the width and height of the box. The
            margin is blended as well, but the box of the object has no margin. None for no margin.
        blend: False pastes the objects without transparency.
        group_size: number of consecutive images of the batch that exchange objects. In the official code, the images of a
            rank exchange objects: 8 images with the published command. If a group spans two ranks, both make all of its
            images.

    Raises:
        ConfigError: if a value is invalid.
    """

    def __init__(
        self,
        prob: float = 0.5,
        ratio: tuple[float, float] = (0.45, 0.55),
        epochs: tuple[int, int | None] | None = None,
        min_area: float = 100.0,
        num_objects: int = 3,
        random_num_objects: bool = False,
        expand_ratio: tuple[float, float] | None = (0.1, 0.25),
        blend: bool = True,
        group_size: int = 8,
    ):
        super().__init__(prob, ratio, epochs)
        for name, value in {"num_objects": num_objects, "group_size": group_size}.items():
            if value < 1:
                raise ConfigError(f"CopyBlend: {name} must be at least 1, got {value}")
        if expand_ratio is not None and not 0 <= expand_ratio[0] <= expand_ratio[1]:
            raise ConfigError(
                f"CopyBlend: expand_ratio must be [low, high] with 0 <= low <= high, or null, got {list(expand_ratio)}"
            )
        self.min_area, self.num_objects, self.random_num_objects = min_area, num_objects, random_num_objects
        self.expand_ratio = None if expand_ratio is None else (expand_ratio[0], expand_ratio[1])
        self.blend, self.group_size = blend, group_size

    def source_positions(self, position: int, batch_size: int) -> Sequence[int]:
        start = position - position % self.group_size
        return range(start, min(start + self.group_size, batch_size))

    def apply(self, sample: dict, sources: Sequence[dict], weight: float, generator: np.random.Generator) -> dict:
        objects = Instances.cat([source["instances"] for source in sources])
        boxes = objects.gt_boxes.tensor.numpy()
        source_numbers = np.repeat(np.arange(len(sources)), [len(source["instances"]) for source in sources])
        candidates = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) >= self.min_area)
        if not len(candidates):
            return sample
        count = min(self.num_objects, len(candidates))
        if self.random_num_objects:
            count = int(generator.integers(1, count + 1))
        canvas = sample["image"].permute(1, 2, 0).numpy().copy()
        size = (canvas.shape[0], canvas.shape[1])
        new_boxes: list[_Window] = []
        copied: list[int] = []
        moves: list[tuple[_Window, _Window]] = []
        for number in generator.choice(candidates, count, replace=False).tolist():
            box = _whole_pixels(boxes[number], size)
            if box is None:
                continue
            target = self._draw_target(box, size, generator)
            new_boxes.append(target)
            copied.append(number)
            source_image = sources[source_numbers[number]]["image"].permute(1, 2, 0).numpy()
            moves.append(self._draw_object(canvas, source_image, box, target, weight, generator))
        new_objects = Instances(
            size,
            gt_boxes=Boxes(torch.tensor(new_boxes, dtype=torch.float32).view(-1, 4)),
            gt_classes=objects.gt_classes[copied],
        )
        if objects.has("gt_masks"):
            new_objects.gt_masks = move_masks(objects.gt_masks[copied], moves, size)
        if objects.has("gt_keypoints"):
            new_objects.gt_keypoints = move_keypoints(objects.gt_keypoints[copied], moves)
        if objects.has("gt_areas"):
            new_objects.gt_areas = objects.gt_areas[copied]
        return {
            **sample,
            "image": torch.from_numpy(canvas).permute(2, 0, 1),
            "instances": Instances.cat([sample["instances"], new_objects]),
        }

    @staticmethod
    def _draw_target(box: _Window, size: tuple[int, int], generator: np.random.Generator) -> _Window:
        """Draw the position of a copied box, inside of an image of ``size`` (height, width)."""
        width, height = box[2] - box[0], box[3] - box[1]
        left = int(generator.integers(0, size[1] - width + 1))
        top = int(generator.integers(0, size[0] - height + 1))
        return left, top, left + width, top + height

    def _draw_object(
        self,
        canvas: np.ndarray,
        source_image: np.ndarray,
        box: _Window,
        target: _Window,
        weight: float,
        generator: np.random.Generator,
    ) -> tuple[_Window, _Window]:
        """Blend the content of ``box`` and its margin into ``canvas`` at ``target``, in place.

        Args:
            canvas, source_image: uint8 (H, W, 3), of the same size.
            box: window of ``source_image``.
            target: window of ``canvas``, of the same size as ``box``.
            weight: weight of the canvas.
            generator: random numbers.

        Returns:
            ``box`` and ``target``, both with the margin.
        """
        if self.expand_ratio is not None:
            ratio = generator.uniform(*self.expand_ratio)
            margin = int((box[2] - box[0]) * ratio), int((box[3] - box[1]) * ratio)
            size = (canvas.shape[0], canvas.shape[1])
            # The margin ends where one of the two images ends.
            sides = [min(pair) for pair in zip(_room(box, margin, size), _room(target, margin, size), strict=True)]
            box, target = _expand(box, sides), _expand(target, sides)
        patch = source_image[box[1] : box[3], box[0] : box[2]]
        background = canvas[target[1] : target[3], target[0] : target[2]]
        background[:] = cv2.addWeighted(background, weight, patch, 1 - weight, 0) if self.blend else patch
        return box, target


def _whole_pixels(box: np.ndarray, size: tuple[int, int]) -> _Window | None:
    """Return a box with its edges rounded down and clipped to an image of ``size``; None if no area remains."""
    height, width = size
    left, top, right, bottom = box.astype(np.int64).clip(0, [width, height, width, height]).tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None


def _room(window: _Window, margin: tuple[int, int], size: tuple[int, int]) -> _Window:
    """Return the part of a margin (horizontal, vertical) that fits between each edge of a window and the image edge."""
    left, top, right, bottom = window
    return min(margin[0], left), min(margin[1], top), min(margin[0], size[1] - right), min(margin[1], size[0] - bottom)


def _expand(window: _Window, sides: Sequence[int]) -> _Window:
    left, top, right, bottom = window
    return left - sides[0], top - sides[1], right + sides[2], bottom + sides[3]


def move_masks(
    masks: BitMasks | PolygonMasks, moves: Sequence[tuple[_Window, _Window]], size: tuple[int, int]
) -> BitMasks | PolygonMasks:
    """Return the parts of masks inside of a window, at another position.

    Args:
        masks: masks of N objects. The bitmaps may have a lower resolution than the image; a pixel then takes the value
            at its center.
        moves: for each object, its window in the source image and, of the same size, in the new image.
        size: (height, width) of both images.
    """
    if isinstance(masks, PolygonMasks):
        return PolygonMasks([_move_polygons(p, *move) for p, move in zip(masks.polygons, moves, strict=True)])
    # The stride of masks of ceil(size / stride) pixels.
    stride = max(-(-side // mask_side) for side, mask_side in zip(size, masks.image_size, strict=True))
    moved = torch.zeros_like(masks.tensor)
    for old, new, (window, target) in zip(masks.tensor, moved, moves, strict=True):
        columns, old_columns = _moved_pixels((window[0], window[2]), (target[0], target[2]), stride, old.shape[1])
        rows, old_rows = _moved_pixels((window[1], window[3]), (target[1], target[3]), stride, old.shape[0])
        new[rows[:, None], columns] = old[old_rows[:, None], old_columns]
    return BitMasks(moved)


def _moved_pixels(
    window: tuple[int, int], target: tuple[int, int], stride: int, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mask pixels with their center in ``target``, and those that they come from, along one axis.

    Args:
        window, target: (start, end) of the source and the target, in pixels of the image.
        stride: side of a mask pixel, in pixels of the image.
        length: number of mask pixels.
    """
    centers = (torch.arange(length) + 0.5) * stride
    pixels = torch.nonzero((centers >= target[0]) & (centers < target[1]))[:, 0]
    return pixels, ((centers[pixels] + (window[0] - target[0])) / stride).floor().long().clamp(0, length - 1)


def _move_polygons(polygons: Sequence[np.ndarray], window: _Window, target: _Window) -> list[Any]:
    shift = np.subtract(target[:2], window[:2])
    clipped = (clip_polygon(polygon.reshape(-1, 2), window[:2], window[2:]) for polygon in polygons)
    return [(points + shift).reshape(-1) for points in clipped if len(points) >= 3]


def move_keypoints(keypoints: Keypoints, moves: Sequence[tuple[_Window, _Window]]) -> Keypoints:
    """Return keypoints at another position; those outside of the window become unlabeled.

    Args:
        keypoints: keypoints of N objects.
        moves: for each object, its window in the source image and, of the same size, in the new image.
    """
    windows = torch.tensor([window for window, _ in moves], dtype=torch.float32).view(-1, 1, 4)
    targets = torch.tensor([target for _, target in moves], dtype=torch.float32).view(-1, 1, 4)
    points = keypoints.tensor[..., :2]
    is_inside = ((points >= windows[..., :2]) & (points <= windows[..., 2:])).all(dim=2)
    is_labeled = is_inside & (keypoints.tensor[..., 2] > 0)
    moved = torch.cat([points + targets[..., :2] - windows[..., :2], keypoints.tensor[..., 2:]], dim=2)
    return Keypoints(moved * is_labeled[..., None])
