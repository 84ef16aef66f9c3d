"""Tiled inference: detect in tiles of a large image to find small objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from deim.errors import ConfigError
from deim.structures.boxes import area, intersection

# Boxes of a class from different views are duplicates if they overlap by more than this fraction of the smaller box.
_SAME = 0.6

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
        rows, columns = self._starts(height), self._starts(width)
        tiles = [(x, y, min(x + self.side, width), min(y + self.side, height)) for y in rows for x in columns]
        return [(0, 0, width, height), *tiles]

    def _starts(self, length: int) -> list[int]:
        """Return the start of each tile; the last tile ends at the image border."""
        last, step = max(length - self.side, 0), max(int(self.side * (1 - self.overlap)), 1)
        return sorted({*range(0, last, step), last})


def merged(found: Sequence[Instances], views: Sequence[View], size: tuple[int, int]) -> Instances:
    """Merge the detections of several views of an image of size (height, width), best first.

    If several views contain the same object, only its best detection is kept. Detections of the same view are never
    merged with each other.
    """
    boxes = torch.cat(
        [one.pred_boxes.tensor + torch.tensor(view[:2]).repeat(2) for one, view in zip(found, views, strict=True)]
    )
    scores = torch.cat([one.scores for one in found])
    classes = torch.cat([one.pred_classes for one in found])
    origin = torch.cat([torch.full((len(one),), index) for index, one in enumerate(found)])
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, classes, origin = boxes[order], scores[order], classes[order], origin[order]
    kept = _kept(boxes, classes, origin)
    return Instances(size, pred_boxes=Boxes(boxes[kept]), scores=scores[kept], pred_classes=classes[kept])


def _kept(boxes: Tensor, classes: Tensor, origin: Tensor) -> Tensor:
    """Return (N,) bool: boxes, sorted best first, that do not duplicate a better one."""
    repeats = (_shared(boxes) > _SAME) & (classes[:, None] == classes) & (origin[:, None] != origin)
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for place in range(len(boxes)):
        if kept[place]:
            kept[place + 1 :] &= ~repeats[place, place + 1 :]
    return kept


def _shared(boxes: Tensor) -> Tensor:
    """Return (N, N) intersections as fractions of the smaller box."""
    areas = area(boxes)
    return intersection(boxes[:, None], boxes) / torch.minimum(areas[:, None], areas).clamp(min=1e-6)
