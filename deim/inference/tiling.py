"""Tiled inference: detect in tiles of a large image to find small objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from deim.errors import ConfigError
from deim.structures.boxes import area, intersection

# Boxes of a class from different views are duplicates if they overlap by more than this fraction of the smaller box.
_DUPLICATE_OVERLAP = 0.6

View = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiling:
    """Tiling of an image.

    Attributes:
        side: side of the square tiles, in pixels of the image.
        overlap: overlap of neighboring tiles, as a fraction of the side. Objects smaller than the overlap lie
            completely in at least one tile.
    """

    side: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.side < 32 or not 0 <= self.overlap < 1:
            raise ConfigError(
                f"tile side {self.side} must be at least 32 pixels, and overlap {self.overlap} at least 0 and below 1"
            )

    def views(self, height: int, width: int) -> list[View]:
        """Return the whole image (for objects larger than a tile) and its tiles, as (left, top, right, bottom)."""
        if height <= self.side and width <= self.side:
            return [(0, 0, width, height)]
        rows, columns = self._tile_starts(height), self._tile_starts(width)
        tiles = [(x, y, min(x + self.side, width), min(y + self.side, height)) for y in rows for x in columns]
        return [(0, 0, width, height), *tiles]

    def _tile_starts(self, length: int) -> list[int]:
        """Return the start of each tile; the last tile ends at the image border."""
        last_start, step = max(length - self.side, 0), max(int(self.side * (1 - self.overlap)), 1)
        return sorted({*range(0, last_start, step), last_start})


def merge_views(instances: Sequence[Instances], views: Sequence[View], size: tuple[int, int]) -> Instances:
    """Merge the detections of several views of an image of size (height, width), best first.

    If several views contain the same object, only its best detection is kept. Detections of the same view are never
    merged with each other. Masks and keypoints are placed in the image.
    """
    offsets = [torch.tensor(view[:2]).repeat(2) for view in views]
    boxes = torch.cat([part.pred_boxes.tensor + offset for part, offset in zip(instances, offsets, strict=True)])
    scores = torch.cat([part.scores for part in instances])
    classes = torch.cat([part.pred_classes for part in instances])
    view_indices = torch.cat([torch.full((len(part),), index) for index, part in enumerate(instances)])
    order = scores.argsort(descending=True, stable=True)
    keep = order[_is_not_duplicate(boxes[order], classes[order], view_indices[order])]
    merged = Instances(size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep])
    if all(part.has("pred_keypoints") for part in instances):
        shifts = [torch.tensor([*view[:2], 0]) for view in views]
        points = [part.pred_keypoints + shift for part, shift in zip(instances, shifts, strict=True)]
        merged.pred_keypoints = torch.cat(points)[keep]
    if all(part.has("pred_masks") for part in instances):
        # Only the masks of the kept detections are pasted, since each has the size of the image.
        masks = torch.zeros(len(keep), *size, dtype=torch.bool)
        first = 0
        for part, (left, top, right, bottom) in zip(instances, views, strict=True):
            is_in_part = (keep >= first) & (keep < first + len(part))
            masks[is_in_part, top:bottom, left:right] = part.pred_masks[keep[is_in_part] - first]
            first += len(part)
        merged.pred_masks = masks
    return merged


def _is_not_duplicate(boxes: Tensor, classes: Tensor, view_indices: Tensor) -> Tensor:
    """Return (N,) bool: boxes, sorted best first, that do not duplicate a better one."""
    is_duplicate = _overlap_with_smaller(boxes) > _DUPLICATE_OVERLAP
    is_duplicate &= (classes[:, None] == classes) & (view_indices[:, None] != view_indices)
    keep = torch.ones(len(boxes), dtype=torch.bool)
    for index in range(len(boxes)):
        if keep[index]:
            keep[index + 1 :] &= ~is_duplicate[index, index + 1 :]
    return keep


def _overlap_with_smaller(boxes: Tensor) -> Tensor:
    """Return (N, N) intersections as fractions of the smaller box."""
    areas = area(boxes)
    return intersection(boxes[:, None], boxes) / torch.minimum(areas[:, None], areas).clamp(min=1e-6)
