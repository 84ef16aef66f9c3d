"""Exported part of a detector: everything from uint8 images to boxes, masks and keypoints."""

from typing import Any

import torch
from torch import Tensor, nn

from deim.modeling.detector import DEIMDetector, DetectionBatch, best_detections
from deim.structures.predictions import Predictions

INPUT_NAME = "images"
# Output names with and without postprocessing. Models with masks or keypoints have further outputs of these names.
DETECTION_OUTPUTS = ("scores", "labels", "boxes")
RAW_OUTPUTS = ("logits", "boxes")


class DetectionGraph(nn.Module):
    """Base class: a detector as a function of one tensor.

    Args:
        detector: detector in its deployed form.
        postprocess: select the best detections; otherwise return logits, boxes and further outputs of all queries.
    """

    # Whether a graph supports any batch size and image size.
    supports_dynamic_shape = True
    detector: Any

    def __init__(self, detector: nn.Module, postprocess: bool = True):
        super().__init__()
        self.detector, self.postprocess = detector, postprocess
        self.num_detections = 0

    @property
    def output_names(self) -> tuple[str, ...]:
        fields = getattr(self.detector, "predicted_fields", ())
        return (*(DETECTION_OUTPUTS if self.postprocess else RAW_OUTPUTS), *fields)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects in a batch of images.

        Args:
            images: uint8 (B, 3, H, W), in the channel order of the recipe (RGB in ours). Normalization is part of the
                graph; uint8 input rules out normalizing twice.

        Returns:
            scores (B, N), best first, labels int64 (B, N) and boxes (B, N, 4), XYXY relative to the image; or logits
            (B, Q, K) and boxes (B, Q, 4), cxcywh relative to the image. If the model predicts them, also logits of the
            masks (B, N or Q, h, w), positive inside of the object, and keypoints (B, N or Q, P, 2), x and y relative to
            the image.
        """
        predictions = self.predictions(images)
        if not self.postprocess:
            masks = None if predictions.masks is None else predictions.masks.select(-1)
            keypoints = None if predictions.keypoints is None else predictions.keypoints[-1]
            return _present(predictions.logits[-1], predictions.boxes[-1], masks, keypoints)
        detections = self.detections(predictions)
        return _present(*detections._replace(boxes=detections.boxes.clamp(0, 1)))

    def predictions(self, images: Tensor) -> Predictions:
        """Return the predictions for ``images`` (see :meth:`forward`), of the last layer or of all layers."""
        raise NotImplementedError

    def detections(self, predictions: Predictions) -> DetectionBatch:
        """See :func:`deim.modeling.detector.best_detections`."""
        return best_detections(predictions, self.num_detections)

    def prepare(self, images: Tensor) -> None:
        """Run once on ``images`` before the export, to determine values that are known only at run time."""


class DEIMGraph(DetectionGraph):
    """Graph of a deim detector."""

    def __init__(self, detector: DEIMDetector, postprocess: bool = True):
        super().__init__(detector, postprocess)
        self.num_detections = detector.num_detections
        # Skips a pass over all pixels if the mean is zero.
        self._has_mean = bool(detector.pixel_mean.any())

    def predictions(self, images: Tensor) -> Predictions:
        detector, pixels = self.detector, images.float()
        if detector.input_format == "BGR":
            pixels = pixels.flip(1)
        if self._has_mean:
            pixels = pixels - detector.pixel_mean
        pixels = pixels / detector.pixel_std
        groups, _ = detector.decoder(detector.encoder(detector.backbone(pixels), None))
        return groups["main"]


def _present(*outputs: Tensor | None) -> tuple[Tensor, ...]:
    """Return the outputs that the model has."""
    return tuple(output for output in outputs if output is not None)


def example_input(batch: int, size: tuple[int, int]) -> Tensor:
    """Return uint8 noise (batch, 3, height, width), to trace with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
