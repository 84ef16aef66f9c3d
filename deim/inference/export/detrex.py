"""Detectors of detrex as a function of one tensor."""

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

_ATTENTION = "detrex.layers.multi_scale_deform_attn"


class DetrexGraph(DetectionGraph):
    """A detector that chooses its detections in ``inference(logits, boxes, image_sizes)``, as nearly all of detrex's do:
    logits and boxes are taken there, in place of it.

    Its code makes plain numbers of the sizes of maps and the number of images, so that a graph is for one of each.
    """

    any_shape = False
    choose: Any

    def __init__(self, detector: nn.Module, postprocess: bool = True):
        super().__init__(detector, postprocess)
        self.choose = getattr(detector, "inference", None)
        self._taken: list[Predictions] = []
        self.detector.inference = self._take

    def _take(self, logits: Tensor, boxes: Tensor, image_sizes: list[tuple[int, int]]) -> list:
        self._taken.append(Predictions(logits[None], boxes[None]))
        return []  # of no image are there results to be scaled

    def predictions(self, images: Tensor) -> Predictions:
        self.detector([{"image": image} for image in images.unbind(dim=0)])
        if not self._taken:
            raise ConfigError(
                f"{type(self.detector).__name__} cannot be exported: it is no detector of deim, and none that hands logits and "
                "boxes to its method inference, as detrex's do"
            )
        return self._taken.pop()

    @torch.no_grad()
    def settle(self, images: Tensor) -> None:
        """
        Raises:
            ConfigError: it has no ``inference``, or its own choice is not that of the best pairs of a query and a class by a sigmoid.
        """
        found = self.predictions(images)
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        own = self.choose(found.logits[-1], found.boxes[-1], sizes)
        self.num_detections = len(own[0])
        if not self.postprocess:
            return
        scores, _, boxes = self.detections(found)
        scale = boxes.new_tensor([images.shape[3], images.shape[2]] * 2)
        for index, one in enumerate(own):
            order = one.scores.argsort(descending=True, stable=True)
            same = torch.allclose(one.scores[order], scores[index], atol=1e-5)
            if not same or not torch.allclose(one.pred_boxes.tensor[order], boxes[index] * scale, atol=0.1):
                raise ConfigError(
                    f"{type(self.detector).__name__} chooses its detections in a way of its own, which is not exported: "
                    "export its logits and boxes (--raw)"
                )


@contextmanager
def attention_as(form: str) -> Iterator[None]:
    """detrex's deformable attention has one of :data:`deim.layers.ops.EXPORT_FORMS` inside."""
    module: Any = importlib.import_module(_ATTENTION)
    theirs = module.multi_scale_deformable_attn_pytorch

    def attend(value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        points = [locations.shape[4]] * locations.shape[3]
        shapes = [(int(height), int(width)) for height, width in spatial_shapes]
        return EXPORT_FORMS[form](value, shapes, locations.flatten(3, 4), weights.flatten(3, 4), points)

    module.multi_scale_deformable_attn_pytorch = attend
    try:
        yield
    finally:
        module.multi_scale_deformable_attn_pytorch = theirs
