"""Edge distributions of a D-FINE model's detections."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detrex.layers import box_cxcywh_to_xyxy
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.inference.images import ImageLike, as_rgb
from deim.inference.trained_model import TrainedModel
from deim.modeling.decoder.distribution_refinement import DistributionRefinement, DistributionState
from deim.structures.predictions import Predictions
from deim.visualization.distributions import draw_distributions


@dataclass(frozen=True)
class LayerOutputs:
    """Outputs of all decoder layers for one image.

    Attributes:
        boxes: (L, Q, 4) cxcywh relative to the image, after each layer.
        probabilities: (L, Q, 4, reg_max + 1) distribution of each edge.
        bin_values: (reg_max + 1,) W(n); see :func:`deim.structures.distribution.weighting_function`.
        scores: (Q, K) of the last layer.
    """

    boxes: Tensor
    probabilities: Tensor
    bin_values: Tensor
    scores: Tensor


@torch.no_grad()
def collect_layer_outputs(model: nn.Module, image: Tensor) -> LayerOutputs:
    """Run a model on one image and collect the outputs of its decoder layers.

    Args:
        image: uint8 (3, H, W), in the input format of the model.

    Raises:
        ConfigError: if the model does not refine distributions.
    """
    refinement = getattr(getattr(model, "decoder", None), "refinement", None)
    if not isinstance(refinement, DistributionRefinement):
        raise ConfigError("this model has no edge distributions; only models with DistributionRefinement (D-FINE) do")
    states: list[DistributionState] = []
    last_predictions: list[Predictions] = []

    def record_outputs(
        module: nn.Module, inputs: Any, output: tuple[DistributionState, dict[str, Predictions]]
    ) -> None:
        states.append(output[0])
        last_predictions[:] = [*output[1].values()][-1:]

    handle = refinement.register_forward_hook(record_outputs)
    try:
        model.eval()([{"image": image}])
    finally:
        handle.remove()
    return LayerOutputs(
        torch.stack([state.references[0] for state in states]),
        torch.stack([state.corners[0].softmax(dim=-1) for state in states]),
        states[0].bin_values,
        last_predictions[0].logits[-1, 0].sigmoid(),
    )


def draw_edge_distributions(trained: TrainedModel, image: ImageLike, output: str, count: int = 3) -> None:
    """Plot the distributions of the best detections in an image.

    See :func:`deim.visualization.distributions.draw_distributions`.

    Raises:
        ConfigError: if ``count`` is below 1; also see :func:`collect_layer_outputs`.
        DatasetError: if the image cannot be read.
    """
    if count < 1:
        raise ConfigError(f"the number of detections to plot must be at least 1, got {count}")
    array = as_rgb(image)
    outputs = collect_layer_outputs(trained.model, instantiate(trained.config.dataloader.test.mapper).map_image(array))
    scores, classes = outputs.scores.max(dim=1)
    height, width = array.shape[:2]
    scale = torch.tensor([width, height, width, height])
    objects = []
    for query in _select_separate_queries(outputs.boxes[-1], scores, count):
        boxes = box_cxcywh_to_xyxy(outputs.boxes[:, query]) * scale
        caption = f"{trained.class_names[int(classes[query])]} {float(scores[query]):.2f}"
        objects.append((caption, boxes.numpy(), outputs.probabilities[:, query].numpy()))
    draw_distributions(array, objects, np.asarray(outputs.bin_values), output)


def _select_separate_queries(boxes: Tensor, scores: Tensor, count: int) -> list[int]:
    """Return the best queries, best first, without those whose center lies in the box of a better selected query."""
    selected: list[int] = []
    for query in scores.argsort(descending=True).tolist():
        distances = (boxes[selected, :2] - boxes[query, :2]).abs()
        if not (distances < boxes[selected, 2:] / 2).all(dim=1).any():
            selected.append(query)
        if len(selected) == count:
            break
    return selected
