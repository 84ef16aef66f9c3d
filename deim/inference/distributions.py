"""Edge distributions of a D-FINE model's detections."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detrex.layers import box_cxcywh_to_xyxy
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.inference.pictures import Picture, as_rgb
from deim.inference.source import TrainedModel
from deim.modeling.decoder.distribution_refinement import DistributionRefinement, DistributionState
from deim.structures.predictions import Predictions
from deim.visualization.distributions import draw_distributions


@dataclass(frozen=True)
class Refined:
    """Outputs of all decoder layers for one image.

    Attributes:
        boxes: (L, Q, 4) cxcywh relative to the image, after each layer.
        probabilities: (L, Q, 4, reg_max + 1) distribution of each edge.
        bin_values: (reg_max + 1,) W(n).
        scores: (Q, K) of the last layer.
    """

    boxes: Tensor
    probabilities: Tensor
    bin_values: Tensor
    scores: Tensor


@torch.no_grad()
def refine(model: nn.Module, image: Tensor) -> Refined:
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
    last: list[Predictions] = []

    def watch(module: nn.Module, inputs: Any, output: tuple[DistributionState, dict[str, Predictions]]) -> None:
        states.append(output[0])
        last[:] = [*output[1].values()][-1:]

    handle = refinement.register_forward_hook(watch)
    try:
        model.eval()([{"image": image}])
    finally:
        handle.remove()
    return Refined(
        torch.stack([state.references[0] for state in states]),
        torch.stack([state.corners[0].softmax(dim=-1) for state in states]),
        states[0].bin_values,
        last[0].logits[-1, 0].sigmoid(),
    )


def draw_edges(trained: TrainedModel, picture: Picture, output: str, count: int = 3) -> None:
    """Plot the distributions of the best detections in an image.

    See :func:`deim.visualization.distributions.draw_distributions`.

    Raises:
        ConfigError: see :func:`refine`.
        DatasetError: if the image cannot be read.
    """
    image = as_rgb(picture)
    found = refine(trained.model, instantiate(trained.config.dataloader.test.mapper).image(image))
    best, classes = found.scores.max(dim=1)
    height, width = image.shape[:2]
    scale = torch.tensor([width, height, width, height])
    objects = []
    for query in _apart(found.boxes[-1], best, count):
        boxes = box_cxcywh_to_xyxy(found.boxes[:, query]) * scale
        caption = f"{trained.class_names[int(classes[query])]} {float(best[query]):.2f}"
        objects.append((caption, boxes.numpy(), found.probabilities[:, query].numpy()))
    draw_distributions(image, objects, np.asarray(found.bin_values), output)


def _apart(boxes: Tensor, scores: Tensor, count: int) -> list[int]:
    """Return the best queries whose centers do not lie in each other's boxes."""
    chosen: list[int] = []
    for query in scores.argsort(descending=True).tolist():
        distances = (boxes[chosen, :2] - boxes[query, :2]).abs()
        if not (distances < boxes[chosen, 2:] / 2).all(dim=1).any():
            chosen.append(query)
        if len(chosen) == count:
            break
    return chosen
