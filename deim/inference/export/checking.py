"""Verification of exported files: compare their detections with those of the torch model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deim.data.datasets.shapes import draw_image
from deim.errors import ExportError
from deim.inference.export.graph import DetectionGraph
from deim.inference.export.metadata import Metadata
from deim.inference.pictures import network_input
from deim.modeling.detector import best_detections
from deim.structures.boxes import iou
from deim.structures.predictions import Predictions

# Minimum score of the compared detections; in images without any, the best few are compared.
_SCORE, _FEW = 0.3, 10
_SAME_PLACE = 0.9
# Per dtype: minimum share of detections found again, and maximum difference of scores and relative coordinates.
LIMITS = {"float32": (1.0, 1e-3), "float16": (0.95, 5e-2), "int8": (0.9, 0.5)}
# Second size for files with dynamic size.
_ANOTHER_SIZE = (320, 448)

Outputs = Sequence[Tensor]


@dataclass(frozen=True)
class Agreement:
    """Result of a comparison.

    Attributes:
        kept: number of detections of torch.
        found: number of them that the file finds as well, with the same class and an IoU of at least 0.9.
        difference: maximum difference of scores, and of coordinates relative to the image.
        batches: shapes of the compared batches, such as "3 x 640 x 640".
    """

    kept: int
    found: int
    difference: float
    batches: Sequence[str]

    def check(self, path: str, dtype: str) -> None:
        """Check the agreement against :data:`LIMITS`.

        Raises:
            ExportError: if the file's detections differ too much.
        """
        share, limit = LIMITS[dtype]
        if self.found < share * self.kept or self.difference > limit:
            raise ExportError(
                f"{path} was written, but its detections differ from those of torch: it finds {self.found} of "
                f"{self.kept} detections, and scores and coordinates differ by up to {self.difference:.1g} (limits for {dtype}: "
                f"at least {share:.0%}, at most {limit:g})"
            )


def compare(
    graph: DetectionGraph,
    session: Callable[[np.ndarray], list[np.ndarray]],
    metadata: Metadata,
    batch: int | None,
    pictures: Sequence[np.ndarray] = (),
) -> Agreement:
    """Run the torch model and an exported file on the same images.

    Args:
        session: opened file.
        batch: fixed batch size of the file; None if it is dynamic.
        pictures: uint8 (H, W, 3) RGB; generated if empty.
    """
    kept = found = 0
    difference, shapes = 0.0, []
    for images in _batches(metadata, batch, pictures or drawn_pictures()):
        with torch.inference_mode():
            wanted = _detections(graph(torch.from_numpy(images)), graph.postprocess)
        given = _detections([torch.from_numpy(one) for one in session(images)], graph.postprocess)
        for of_torch, of_file in zip(wanted, given, strict=True):
            differences = _differences(of_torch, of_file)
            kept += len(differences)
            found += int(differences.isfinite().sum())
            difference = max([difference, *differences[differences.isfinite()].tolist()])
        shapes.append(" x ".join(str(side) for side in (len(images), *images.shape[2:])))
    return Agreement(kept, found, difference, list(dict.fromkeys(shapes)))


def _batches(metadata: Metadata, batch: int | None, pictures: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the images as uint8 (B, 3, H, W), in every batch size and image size to verify."""
    sizes = [(metadata.size[0], metadata.size[1])] + [_ANOTHER_SIZE] * metadata.dynamic_size
    for size in sizes:
        images = [network_input(picture, size, metadata.channels) for picture in pictures]
        if batch is None:
            yield np.stack(images[:1])
        count = batch or 3
        for start in range(0, len(images), count):
            yield np.stack([images[place % len(images)] for place in range(start, start + count)])


def drawn_pictures() -> list[np.ndarray]:
    """Generate three images, uint8 (480, 640, 3) RGB."""
    rng = np.random.default_rng(0)
    return [draw_image(rng, (480, 640))[0][..., ::-1] for _ in range(3)]


def _detections(outputs: Outputs, postprocessed: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return scores, labels and boxes (XYXY) of each image."""
    if not postprocessed:
        logits, boxes = outputs
        outputs = best_detections(Predictions(logits[None], boxes[None]), 100)
    return [(scores, labels, boxes) for scores, labels, boxes in zip(*outputs, strict=True)]


def _differences(wanted: Outputs, given: Outputs) -> Tensor:
    """Return (N,) differences between the compared torch detections and the closest of their class in the file.

    The difference is infinite if the file has no detection in the same place.
    """
    count = int((wanted[0] >= _SCORE).sum()) or min(_FEW, len(wanted[0]))
    scores, labels, boxes = (one[:count].float() for one in wanted)
    other_scores, other_labels, other_boxes = (one.float() for one in given)
    same = (iou(boxes[:, None], other_boxes[None]) >= _SAME_PLACE) & (labels[:, None] == other_labels)
    moved = (boxes[:, None] - other_boxes[None]).abs().amax(dim=2)
    changed = torch.maximum(moved, (scores[:, None] - other_scores).abs())
    return changed.masked_fill(~same, torch.inf).amin(dim=1)
