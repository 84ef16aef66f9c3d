"""Verification of exported files: compare their detections with those of the torch model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deim.data.datasets.shapes import draw_image
from deim.errors import ExportError
from deim.inference.export.graph import DetectionGraph
from deim.inference.export.interfaces import network_inputs, relative_outputs
from deim.inference.export.metadata import Metadata
from deim.inference.images import to_network_input
from deim.modeling.detector import DetectionBatch, best_detections
from deim.structures.boxes import iou
from deim.structures.masks import MaskPredictions
from deim.structures.predictions import Predictions

# Detections with at least this score are compared. If an image has none, its best detections are compared.
_MIN_SCORE, _MIN_DETECTIONS = 0.3, 10
_MIN_IOU = 0.9
# Per dtype: minimum fraction of matched detections, maximum difference of scores and relative coordinates, and minimum
# mean IoU of masks.
TOLERANCES = {"float32": (1.0, 1e-3, 0.99), "float16": (0.95, 5e-2, 0.9), "int8": (0.9, 0.5, 0.6)}
# Second size for files with dynamic size.
_SECOND_SIZE = (320, 448)


@dataclass(frozen=True)
class Agreement:
    """Result of a comparison.

    Attributes:
        num_detections: number of compared detections of torch.
        num_matched: number of torch's detections that the file finds with the same class and an IoU of at least 0.9.
        max_difference: maximum difference of scores, and of coordinates of boxes and keypoints relative to the image.
        batch_shapes: shapes of the compared batches, such as "3 x 640 x 640".
        mask_iou: mean IoU of the masks of matched detections; None without masks.
    """

    num_detections: int
    num_matched: int
    max_difference: float
    batch_shapes: Sequence[str]
    mask_iou: float | None = None

    def check(self, path: str, dtype: str) -> None:
        """Check the agreement against :data:`TOLERANCES`.

        Raises:
            ExportError: if the file's detections differ too much.
        """
        min_fraction, max_allowed, min_mask_iou = TOLERANCES[dtype]
        if self.mask_iou is not None and self.mask_iou < min_mask_iou:
            raise ExportError(
                f"{path} was written, but its masks differ from those of torch: their mean IoU is {self.mask_iou:.3f} "
                f"({dtype} requires at least {min_mask_iou:g})"
            )
        if self.num_matched < min_fraction * self.num_detections or self.max_difference > max_allowed:
            raise ExportError(
                f"{path} was written, but its detections differ from those of torch: the file finds {self.num_matched} of "
                f"{self.num_detections} detections of torch ({dtype} requires at least {min_fraction:.0%}), and scores and "
                f"relative coordinates differ by up to {self.max_difference:.1g} (allowed: {max_allowed:g})"
            )


def compare_detections(
    graph: DetectionGraph,
    session: Callable[..., list[np.ndarray]],
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
    differences, mask_ious, batch_shapes = [], [], []
    for pixels in _image_batches(metadata, batch, images or generate_images()):
        inputs, size = network_inputs(metadata, pixels), (pixels.shape[2], pixels.shape[3])
        with torch.inference_mode():
            torch_outputs = [output.numpy() for output in graph(*(torch.from_numpy(value) for value in inputs))]
        both = (
            _detections_per_image(relative_outputs(metadata, outputs, size), metadata.postprocess)
            for outputs in (torch_outputs, session(*inputs))
        )
        for torch_detections, file_detections in zip(*both, strict=True):
            image_differences, image_mask_ious = _compare_image(torch_detections, file_detections)
            differences += image_differences.tolist()
            mask_ious += image_mask_ious.tolist()
        batch_shapes.append(" x ".join(str(side) for side in (len(pixels), *size)))
    finite = [difference for difference in differences if difference < torch.inf]
    mask_iou = sum(mask_ious) / len(mask_ious) if mask_ious else None
    return Agreement(
        len(differences), len(finite), max(finite, default=0.0), list(dict.fromkeys(batch_shapes)), mask_iou
    )


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


def _detections_per_image(outputs: Mapping[str, np.ndarray], is_postprocessed: bool) -> list[DetectionBatch]:
    """Return the detections of each image, without the dimension of the batch.

    Args:
        outputs: outputs of a graph or a file by name.
        is_postprocessed: whether the outputs are detections; otherwise those of all queries.
    """
    by_name = {name: torch.from_numpy(output) for name, output in outputs.items()}
    masks, keypoints = by_name.get("masks"), by_name.get("keypoints")
    if is_postprocessed:
        batch = DetectionBatch(by_name["scores"], by_name["labels"], by_name["boxes"], masks, keypoints)
    else:
        predictions = Predictions(
            by_name["logits"][None],
            by_name["boxes"][None],
            masks=None if masks is None else _as_predictions(masks),
            keypoints=None if keypoints is None else keypoints[None],
        )
        batch = best_detections(predictions, 100)
    return [
        DetectionBatch(
            batch.scores[index],
            batch.classes[index],
            batch.boxes[index],
            None if batch.masks is None else batch.masks[index],
            None if batch.keypoints is None else batch.keypoints[index],
        )
        for index in range(len(batch.scores))
    ]


def _as_predictions(logits: Tensor) -> MaskPredictions:
    """Return masks (B, Q, h, w) as predictions, where each query is its own embedding."""
    batch, count = logits.shape[:2]
    queries = torch.eye(count, dtype=logits.dtype).expand(1, batch, -1, -1)
    return MaskPredictions(queries, logits.new_zeros(1, batch, count), [logits])


def _compare_image(reference: DetectionBatch, candidates: DetectionBatch) -> tuple[Tensor, Tensor]:
    """Compare each torch detection with the closest detection of its class in the file.

    Returns:
        (N,) maximum differences of scores and relative coordinates, infinite if the file has no detection with an IoU
        of at least 0.9; and (M,) IoU of the masks of the other detections, 1 if both masks are empty. M is 0 without
        masks.
    """
    count = int((reference.scores >= _MIN_SCORE).sum()) or min(_MIN_DETECTIONS, len(reference.scores))
    scores, boxes, labels = reference.scores[:count].float(), reference.boxes[:count].float(), reference.classes[:count]
    other_boxes = candidates.boxes.float()
    is_match = (iou(boxes[:, None], other_boxes[None]) >= _MIN_IOU) & (labels[:, None] == candidates.classes)
    differences = (boxes[:, None] - other_boxes[None]).abs().amax(dim=2)
    differences = torch.maximum(differences, (scores[:, None] - candidates.scores.float()).abs())
    differences, closest = differences.masked_fill(~is_match, torch.inf).min(dim=1)
    if reference.keypoints is not None and candidates.keypoints is not None:
        points, other_points = reference.keypoints[:count].float(), candidates.keypoints[closest].float()
        differences = torch.maximum(differences, (points - other_points).abs().amax(dim=(1, 2)))
    if reference.masks is None or candidates.masks is None:
        return differences, differences[:0]
    matched = differences.isfinite()
    masks, other_masks = reference.masks[:count][matched] > 0, candidates.masks[closest[matched]] > 0
    overlap, union = ((masks & other_masks).sum(dim=(1, 2)), (masks | other_masks).sum(dim=(1, 2)))
    return differences, torch.where(union > 0, overlap / union, 1.0)
