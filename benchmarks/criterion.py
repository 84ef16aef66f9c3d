"""Time of the losses of a training step, including matching, compared with detrex."""

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from deim.errors import ConfigError
from deim.modeling.losses import DetrexCriterion

LAYERS, QUERIES, CLASSES = 6, 900, 80  # as in DINO
# (images per batch, objects per image)
BATCHES = ((2, 8), (4, 20), (16, 80))


def random_step(images: int, objects: int) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Return random outputs of a detrex model with encoder proposals, and random targets."""
    generator = torch.Generator().manual_seed(0)

    def layer() -> dict[str, Tensor]:
        logits = torch.randn(images, QUERIES, CLASSES, generator=generator) - 4
        boxes = torch.rand(images, QUERIES, 4, generator=generator) * 0.4 + 0.3
        return {"pred_logits": logits.requires_grad_(), "pred_boxes": boxes.requires_grad_()}

    outputs: dict[str, Any] = {**layer(), "aux_outputs": [layer() for _ in range(LAYERS - 1)], "enc_outputs": layer()}
    targets = [
        {
            "labels": torch.randint(CLASSES, (objects,), generator=generator),
            "boxes": torch.rand(objects, 4, generator=generator) * 0.4 + 0.3,
        }
        for _ in range(images)
    ]
    return outputs, targets


def detrex_criterion() -> Callable[..., dict[str, Tensor]]:
    """Return DINO's criterion without denoising, which needs a GPU.

    Raises:
        ConfigError: if no checkout of detrex is on the Python path.
    """
    try:
        matcher = importlib.import_module("detrex.modeling.matcher").HungarianMatcher
        criterion = importlib.import_module("projects.dino.modeling.two_stage_criterion").TwoStageCriterion
    except ImportError as error:
        raise ConfigError(
            f"this comparison needs checkouts of detectron2 and detrex on PYTHONPATH ({error})"
        ) from error
    cost = matcher(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0, cost_class_type="focal_loss_cost")
    return criterion(CLASSES, cost, weight_dict={})


def time_step(criterion: Callable[..., dict[str, Tensor]], step: tuple[dict, list[dict]]) -> float:
    """Return the time in seconds of the losses and their gradients."""
    start = time.perf_counter()
    sum(criterion(*step).values()).backward()  # type: ignore[union-attr]
    return time.perf_counter() - start


def run(rounds: int) -> None:
    """Print the minimum time over ``rounds`` for each batch size; the implementations are timed in turn."""
    criteria: Sequence[Callable] = (
        detrex_criterion(),
        DetrexCriterion(CLASSES, "focal", alpha=0.25, gamma=2.0),
        DetrexCriterion(CLASSES, "mal"),
    )
    rows = []
    for images, objects in BATCHES:
        step = random_step(images, objects)
        times = [[time_step(criterion, step) for criterion in criteria] for _ in range(rounds)]
        detrex, focal, mal = (min(column) for column in zip(*times, strict=True))
        cells = [f"{1000 * value:.0f} ms" for value in (detrex, focal, mal)]
        rows.append([f"{images} x {objects}", *cells, f"{focal / detrex:.2f}", f"{mal / detrex:.2f}"])
    header = [
        "images x objects",
        "detrex",
        "deim, the same losses",
        "deim, MAL",
        "the same losses / detrex",
        "MAL / detrex",
    ]
    print(tabulate(rows, header, tablefmt="github"))
