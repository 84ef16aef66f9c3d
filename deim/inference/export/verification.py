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
from deim.inference.images import to_network_input
from deim.modeling.detector import best_detections
from deim.structures.boxes import iou
from deim.structures.predictions import Predictions

# Detections with at least this score are compared. If an image has none, its best detections are compared.
_MIN_SCORE, _MIN_DETECTIONS = 0.3, 10
_MIN_IOU = 0.9
# Per dtype: minimum fraction of matched detections, and maximum difference of scores and relative coordinates.
TOLERANCES = {"float32": (1.0, 1e-3), "float16": (0.95, 5e-2), "int8": (0.9, 0.5)}
# Second size for files with dynamic size.
_SECOND_SIZE = (320, 448)

Outputs = Sequence[Tensor]


@dataclass(frozen=True)
class Agreement:
    """Result of a comparison.

    Attributes:
        num_detections: number of compared detections of torch.
        num_matched: number of torch's detections that the file finds with the same class and an IoU of at least 0.9.
        max_difference: maximum difference of scores, and of coordinates relative to the image.
        batch_shapes: shapes of the compared batches, such as "3 x 640 x 640".
    """

    num_detections: int
    num_matched: int
    max_difference: float
    batch_shapes: Sequence[str]

    def check(self, path: str, dtype: str) -> None:
        """Check the agreement against :data:`TOLERANCES`.

        Raises:
            ExportError: if the file's detections differ too much.
        """
        min_fraction, max_allowed = TOLERANCES[dtype]
        if self.num_matched < min_fraction * self.num_detections or self.max_difference > max_allowed:
            raise ExportError(
                f"{path} was written, but its detections differ from those of torch: the file finds {self.num_matched} of "
                f"{self.num_detections} detections of torch ({dtype} requires at least {min_fraction:.0%}), and scores and "
                f"relative coordinates differ by up to {self.max_difference:.1g} (allowed: {max_allowed:g})"
            )


def compare_detections(
    graph: DetectionGraph,
    session: Callable[[np.ndarray], list[np.ndarray]],
    metadata: Metadata,
    batch: int | None,
    images: Sequence[np.ndarray] = (),
) -> Agreement:
    """Run the torch model and an exported file on the same images.

    Args:
        session: opened file.
        batch: fixed batch size of the file; None if it is dynamic.
        images: uint8 (H, W, 3) RGB; generated if empty.
    """
    num_detections = num_matched = 0
    max_difference, batch_shapes = 0.0, []
    for inputs in _image_batches(metadata, batch, images or generate_images()):
        with torch.inference_mode():
            torch_outputs = _detections_per_image(graph(torch.from_numpy(inputs)), graph.postprocess)
        file_outputs = _detections_per_image(
            [torch.from_numpy(output) for output in session(inputs)], graph.postprocess
        )
        for torch_detections, file_detections in zip(torch_outputs, file_outputs, strict=True):
            differences = _detection_differences(torch_detections, file_detections)
            num_detections += len(differences)
            num_matched += int(differences.isfinite().sum())
            max_difference = max([max_difference, *differences[differences.isfinite()].tolist()])
        batch_shapes.append(" x ".join(str(side) for side in (len(inputs), *inputs.shape[2:])))
    return Agreement(num_detections, num_matched, max_difference, list(dict.fromkeys(batch_shapes)))


def _image_batches(metadata: Metadata, batch: int | None, images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the images as uint8 (B, 3, H, W), in every batch size and image size to verify."""
    sizes = [(metadata.size[0], metadata.size[1])] + [_SECOND_SIZE] * metadata.dynamic_size
    for size in sizes:
        inputs = [to_network_input(image, size, metadata.channels) for image in images]
        if batch is None:
            yield np.stack(inputs[:1])
        count = batch or 3
        for start in range(0, len(inputs), count):
            yield np.stack([inputs[index % len(inputs)] for index in range(start, start + count)])


def generate_images() -> list[np.ndarray]:
    """Generate three images, uint8 (480, 640, 3) RGB."""
    rng = np.random.default_rng(0)
    return [draw_image(rng, (480, 640))[0][..., ::-1] for _ in range(3)]


def _detections_per_image(outputs: Outputs, is_postprocessed: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return scores, labels and boxes (XYXY) of each image."""
    if not is_postprocessed:
        logits, boxes = outputs
        outputs = best_detections(Predictions(logits[None], boxes[None]), 100)[:3]
    return [(scores, labels, boxes) for scores, labels, boxes in zip(*outputs, strict=True)]


def _detection_differences(reference: Outputs, candidates: Outputs) -> Tensor:
    """Return (N,) differences of each compared torch detection and the closest detection of its class in the file.

    The difference is infinite if the file has no detection with an IoU of at least 0.9.
    """
    count = int((reference[0] >= _MIN_SCORE).sum()) or min(_MIN_DETECTIONS, len(reference[0]))
    scores, labels, boxes = (output[:count].float() for output in reference)
    other_scores, other_labels, other_boxes = (output.float() for output in candidates)
    is_match = (iou(boxes[:, None], other_boxes[None]) >= _MIN_IOU) & (labels[:, None] == other_labels)
    box_differences = (boxes[:, None] - other_boxes[None]).abs().amax(dim=2)
    differences = torch.maximum(box_differences, (scores[:, None] - other_scores).abs())
    return differences.masked_fill(~is_match, torch.inf).amin(dim=1)
