"""detrex detectors as functions of one tensor, for export."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.inference.export.graph import DetectionGraph
from deim.layers.ops import EXPORT_FORMS
from deim.structures.predictions import Predictions

_ATTENTION_MODULE = "detrex.layers.multi_scale_deform_attn"


class DetrexGraph(DetectionGraph):
    """Graph of a detector that selects its detections in ``inference(logits, boxes, image_sizes)``, as most in detrex.

    ``inference`` is replaced to capture logits and boxes. detrex's code converts map sizes and batch size to Python
    numbers, so a graph is valid for one image size and one batch size only.
    """

    supports_dynamic_shape = False
    select_detections: Any

    def __init__(self, detector: nn.Module, postprocess: bool = True):
        super().__init__(detector, postprocess)
        self.select_detections = getattr(detector, "inference", None)
        self._captured: list[Predictions] = []
        self.detector.inference = self._capture

    def _capture(self, logits: Tensor, boxes: Tensor, image_sizes: list[tuple[int, int]]) -> list:
        self._captured.append(Predictions(logits[None], boxes[None]))
        return []  # no results to rescale

    def predictions(self, images: Tensor) -> Predictions:
        self.detector([{"image": image} for image in images.unbind(dim=0)])
        if not self._captured:
            raise ConfigError(
                f"{type(self.detector).__name__} cannot be exported: it is neither a detector of deim nor one that "
                "passes logits and boxes to its method inference, as those of detrex do"
            )
        return self._captured.pop()

    @torch.no_grad()
    def prepare(self, images: Tensor) -> None:
        """Determine the number of detections and, with ``postprocess``, check that they are selected as in deim.

        Raises:
            ConfigError: if the detector does not call its method ``inference``, or does not select the (query, class)
                pairs with the best sigmoid scores.
        """
        predictions = self.predictions(images)
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        detector_results = self.select_detections(predictions.logits[-1], predictions.boxes[-1], sizes)
        self.num_detections = len(detector_results[0])
        if not self.postprocess:
            return
        scores, _, boxes, *_ = self.detections(predictions)
        scale = boxes.new_tensor([images.shape[3], images.shape[2]] * 2)
        for index, instances in enumerate(detector_results):
            order = instances.scores.argsort(descending=True, stable=True)
            has_same_scores = torch.allclose(instances.scores[order], scores[index], atol=1e-5)
            if not has_same_scores or not torch.allclose(
                instances.pred_boxes.tensor[order], boxes[index] * scale, atol=0.1
            ):
                raise ConfigError(
                    f"{type(self.detector).__name__} selects its detections in an unsupported way: export logits and "
                    "boxes instead (--raw)"
                )


@contextmanager
def use_attention_form(form: str) -> Iterator[None]:
    """Within this context, use one of :data:`deim.layers.ops.EXPORT_FORMS` for detrex's deformable attention."""
    module: Any = importlib.import_module(_ATTENTION_MODULE)
    original = module.multi_scale_deformable_attn_pytorch

    def attention(value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        points = [locations.shape[4]] * locations.shape[3]
        shapes = [(int(height), int(width)) for height, width in spatial_shapes]
        return EXPORT_FORMS[form](value, shapes, locations.flatten(3, 4), weights.flatten(3, 4), points)

    module.multi_scale_deformable_attn_pytorch = attention
    try:
        yield
    finally:
        module.multi_scale_deformable_attn_pytorch = original
