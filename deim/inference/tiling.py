"""Looking at a large picture in parts, so that its small objects are seen as large ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from deim.errors import ConfigError
from deim.structures.boxes import area, intersection

# Of two boxes of a class from different views, how much of the smaller one lies in the other for them to be one object.
_SAME = 0.6

View = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiling:
    """
    Attributes:
        side: of the square tiles, in pixels of the picture.
        overlap: of neighbors, as a share of the side; objects smaller than that are whole in one of them.
    """

    side: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.side < 32 or not 0 <= self.overlap < 1:
            raise ConfigError(
                f"tiles of {self.side} pixels with overlap {self.overlap}: at least 32 pixels, and an overlap below 1"
            )

    def views(self, height: int, width: int) -> list[View]:
        """The whole picture, for what is larger than a tile, and its tiles: left, top, right, bottom."""
        if height <= self.side and width <= self.side:
            return [(0, 0, width, height)]
        rows, columns = self._starts(height), self._starts(width)
        tiles = [(x, y, min(x + self.side, width), min(y + self.side, height)) for y in rows for x in columns]
        return [(0, 0, width, height), *tiles]

    def _starts(self, length: int) -> list[int]:
        """Where tiles begin: the last one ends with the picture."""
        last, step = max(length - self.side, 0), max(int(self.side * (1 - self.overlap)), 1)
        return sorted({*range(0, last, step), last})


def merged(found: Sequence[Instances], views: Sequence[View], size: tuple[int, int]) -> Instances:
    """Detections in views of a picture as detections of the picture of this (height, width), best first: of an object that
    several views show, the best one is kept. Those of one view are all kept, as the model means them."""
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
    """(N,) bool: which of the boxes, best first, are no repetition of a better one that is kept."""
    repeats = (_shared(boxes) > _SAME) & (classes[:, None] == classes) & (origin[:, None] != origin)
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for place in range(len(boxes)):
        if kept[place]:
            kept[place + 1 :] &= ~repeats[place, place + 1 :]
    return kept


def _shared(boxes: Tensor) -> Tensor:
    """(N, N) intersections as shares of the smaller box."""
    areas = area(boxes)
    return intersection(boxes[:, None], boxes) / torch.minimum(areas[:, None], areas).clamp(min=1e-6)
