"""Exported part of a detector: everything from images to boxes, masks and keypoints, in one of several interfaces."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from detrex.layers import box_cxcywh_to_xyxy
from torch import Tensor, nn

from deim.modeling.detector import DEIMDetector, DetectionBatch, best_detections
from deim.structures.precision import in_full_precision
from deim.structures.predictions import Predictions

INPUT_NAME, SIZES_NAME = "images", "orig_target_sizes"
# Output names with and without postprocessing. Models with masks or keypoints have further outputs of these names.
DETECTION_OUTPUTS = ("scores", "labels", "boxes")
RAW_OUTPUTS = ("logits", "boxes")


class DetectionGraph(nn.Module):
    """Base class: a detector as a function of one tensor, with the interface "deim".

    Args:
        detector: detector in its deployed form.
        postprocess: select the best detections; otherwise return logits, boxes and further outputs of all queries.
    """

    # Whether a graph supports any batch size and image size.
    supports_dynamic_shape = True
    interface = "deim"
    input_names: tuple[str, ...] = (INPUT_NAME,)
    detector: Any

    def __init__(self, detector: nn.Module, postprocess: bool = True):
        super().__init__()
        self.detector, self.postprocess = detector, postprocess
        self.num_detections = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """Outputs besides boxes: masks, keypoints."""
        return getattr(self.detector, "predicted_fields", ())

    @property
    def output_names(self) -> tuple[str, ...]:
        return (*(DETECTION_OUTPUTS if self.postprocess else RAW_OUTPUTS), *self.fields)

    def example(self, batch: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return inputs to trace with."""
        return (example_input(batch, size),)

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
            return all_queries(predictions)
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
        pixels = images.float()
        if self.detector.input_format == "BGR":
            pixels = pixels.flip(1)
        return self._predictions(self._normalize(pixels))

    def _normalize(self, pixels: Tensor) -> Tensor:
        """Normalize float RGB images in [0, 255]."""
        if self._has_mean:
            pixels = pixels - self.detector.pixel_mean
        return pixels / self.detector.pixel_std

    def _predictions(self, pixels: Tensor) -> Predictions:
        """Return the predictions for normalized images."""
        detector = self.detector
        groups, _ = detector.decoder(detector.encoder(detector.backbone(pixels), None))
        return groups["main"]


class FloatGraph(DEIMGraph):
    """Base class of the interfaces whose images are float32 (B, 3, H, W), RGB in [0, 1].

    Args:
        include_normalization: whether the graph subtracts the mean and divides by the standard deviation. Otherwise the
            caller does, as for the official files.
    """

    def __init__(self, detector: DEIMDetector, include_normalization: bool = False):
        super().__init__(detector)
        self.include_normalization = include_normalization and input_normalization(detector) is not None

    def example(self, batch: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
        return (example_input(batch, size).float() / 255,)

    def predictions(self, images: Tensor) -> Predictions:
        return self._predictions(self._normalize(images * 255) if self.include_normalization else images)


class OfficialGraph(FloatGraph):
    """Graph with the inputs and outputs of the files that the official exporters of DEIM, D-FINE and RT-DETR write.

    The outputs of a model with masks or keypoints are those of EdgeCrafter's exporters.
    """

    interface = "official"
    input_names = (INPUT_NAME, SIZES_NAME)

    @property
    def output_names(self) -> tuple[str, ...]:
        if self.fields == ("keypoints",):
            return ("scores", "labels", "keypoints")
        return ("labels", "boxes", "scores", *self.fields)

    def example(self, batch: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
        return (*super().example(batch, size), torch.tensor([[size[1], size[0]]] * batch))

    def forward(self, images: Tensor, orig_target_sizes: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Detect objects in a batch of images.

        Args:
            images: float32 (B, 3, H, W), RGB in [0, 1]; normalized by the caller if the recipe has a mean and the graph
                does not normalize.
            orig_target_sizes: int64 (B, 2), width and height in which boxes and keypoints are returned.

        Returns:
            labels int64 (B, N), boxes (B, N, 4), XYXY in pixels and not clipped, scores (B, N) in descending order,
            logits of the masks (B, N, h, w); with keypoints instead scores, labels and keypoints (B, N, P, 2) in pixels.
        """
        scores, labels, boxes, masks, keypoints = self.detections(self.predictions(images))
        outputs = {"scores": scores, "labels": labels, "boxes": boxes * orig_target_sizes.repeat(1, 2)[:, None]}
        if masks is not None:
            outputs["masks"] = masks
        if keypoints is not None:
            outputs["keypoints"] = keypoints * orig_target_sizes[:, None, None]
        return tuple(outputs[name] for name in self.output_names)


class RawGraph(FloatGraph):
    """Graph that returns the last layer's predictions of all queries, under the names of the official models."""

    interface = "raw"
    _PREFIX: ClassVar[str] = "pred_"

    def __init__(self, detector: DEIMDetector, include_normalization: bool = False):
        super().__init__(detector, include_normalization)
        self.postprocess = False

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self._PREFIX + name for name in (*RAW_OUTPUTS, *self.fields))


class DeepStreamGraph(FloatGraph):
    """Graph with the one tensor that the parser of DeepStream-Yolo reads: boxes, without masks and keypoints.

    The graph normalizes, because nvinfer divides all channels by the same number.
    """

    interface = "deepstream"
    input_names = ("input",)
    fields = ()

    def __init__(self, detector: DEIMDetector):
        super().__init__(detector, include_normalization=True)

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("output",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects in a batch of images.

        Args:
            images: float32 (B, 3, H, W), RGB in [0, 1].

        Returns:
            (B, Q, 6): left, top, right, bottom in pixels of ``images`` and not clipped, the highest score of the query, and
            its class.
        """
        logits, boxes, *_ = all_queries(self.predictions(images))
        scores, labels = in_full_precision(logits).sigmoid().max(dim=-1, keepdim=True)
        height, width = images.shape[-2:]
        corners = box_cxcywh_to_xyxy(in_full_precision(boxes)) * torch.tensor([width, height, width, height])
        return (torch.cat([corners, scores, labels.to(scores.dtype)], dim=-1),)


def all_queries(predictions: Predictions) -> tuple[Tensor, ...]:
    """Return logits, boxes, masks and keypoints of the last layer, for all queries."""
    masks = None if predictions.masks is None else predictions.masks.select(-1)
    keypoints = None if predictions.keypoints is None else predictions.keypoints[-1]
    return _present(predictions.logits[-1], predictions.boxes[-1], masks, keypoints)


def input_normalization(detector: DEIMDetector) -> dict[str, Sequence[float]] | None:
    """Return mean and standard deviation of RGB images in [0, 1]; None if they are 0 and 1."""
    mean, std = ((values.flatten() / 255).tolist() for values in (detector.pixel_mean, detector.pixel_std))
    if not any(mean) and all(value == 1 for value in std):
        return None
    return {"mean": [round(value, 6) for value in mean], "std": [round(value, 6) for value in std]}


def _present(*outputs: Tensor | None) -> tuple[Tensor, ...]:
    """Return the outputs that the model has."""
    return tuple(output for output in outputs if output is not None)


def example_input(batch: int, size: tuple[int, int]) -> Tensor:
    """Return uint8 noise (batch, 3, height, width), to trace with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
