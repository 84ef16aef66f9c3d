"""Numerical comparison of a recipe with the official DEIM code, with the same weights, images and noise.

Run :func:`compare` in a separate process for each recipe: the registries of the official code are global.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data.datasets import load_coco_json
from detrex.layers import box_xyxy_to_cxcywh
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks import official_code
from deim.checkpoint.formats import Format, recognize
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import build, load_config
from deim.data.augmentation import Resize
from deim.data.mapper import DetectionMapper
from deim.errors import ConfigError
from deim.schedule import LearningRate

# Iterations per epoch for the comparison of learning rates; schedules count warm-up in iterations.
ITERS_PER_EPOCH = 100
# Adam's first steps amplify rounding errors. A small learning rate keeps both models close.
LEARNING_RATE_DIVISOR = 100


@dataclass
class Fidelity:
    """Differences between this project and the official code.

    Attributes:
        outputs: largest difference of a logit or of a relative box coordinate in evaluation. This is the median over
            images: rounding may swap two tokens with nearly equal scores, which changes all predictions of an image.
        losses: largest difference of a loss term at the first step, relative to the total loss.
        gradients: largest difference of a gradient element at the first step, relative to the largest norm of a
            parameter's gradient.
        thread_rounding: like ``gradients``, between this project's gradients on all threads and on one thread.
        same_param_groups: True if all parameters have the same learning rate and weight decay.
        learning_rates: largest difference of the learning rate over the whole schedule, relative to the base.
        median_step: median over the training steps of the relative difference of the total loss.
        max_step: maximum over the training steps of the relative difference of the total loss.
    """

    outputs: float
    losses: float
    gradients: float
    thread_rounding: float
    same_param_groups: bool
    learning_rates: float
    median_step: float
    max_step: float


@dataclass
class _Pair:
    """This project's model and the official model, with their configs."""

    ours: Any
    theirs: nn.Module
    layout: Format
    criterion: nn.Module
    recipe: Any
    official: Any


def compare(
    recipe: str, checkout: str, samples: Sequence[dict], size: int, steps: int, every_token: bool = False
) -> Fidelity:
    """Build the model of this project and the official model, and compare them.

    Args:
        recipe: name of a recipe that the official code also has.
        checkout: checkout of the official DEIM code.
        samples: samples from :func:`load_samples`, used in batches of two.
        size: side of the square images in pixels.
        steps: number of training steps.
        every_token: use all tokens as queries instead of the best, so that rounding cannot change the selection.
    """
    pair = _build(recipe, checkout, size, every_token)
    batches = [samples[i : i + 2] for i in range(0, len(samples) - 1, 2)]
    outputs = _compare_outputs(pair, batches)
    losses, gradients, thread_rounding = _compare_gradients(pair, batches[0])
    same_param_groups, learning_rates = _has_same_param_groups(pair), _compare_learning_rates(pair)
    differences = _compare_steps(pair, batches, steps)
    return Fidelity(
        outputs=outputs,
        losses=losses,
        gradients=gradients,
        thread_rounding=thread_rounding,
        same_param_groups=same_param_groups,
        learning_rates=learning_rates,
        median_step=statistics.median(differences),
        max_step=max(differences),
    )


def load_samples(json_file: str, image_root: str, size: int, count: int) -> list[dict]:
    """Return the first ``count`` images with objects, resized to squares of ``size`` pixels, as training samples.

    Raises:
        ConfigError: if fewer images have objects.
    """
    records = [record for record in load_coco_json(json_file, image_root, "fidelity") if record["annotations"]]
    if len(records) < count:
        raise ConfigError(f"{json_file} has only {len(records)} images with objects, {count} are needed")
    mapper = DetectionMapper([Resize(size)], is_train=True)
    return [mapper(record) for record in records[:count]]


def report(results: Mapping[str, Fidelity]) -> str:
    """Return a table with a row for each recipe."""
    header = [
        "recipe",
        "predictions",
        "loss terms",
        "gradients",
        "one thread",
        "groups",
        "learning rates",
        "steps",
        "largest",
    ]
    rows = []
    for recipe, result in results.items():
        first_cells = [result.outputs, result.losses, result.gradients, result.thread_rounding]
        last_cells = [result.learning_rates, result.median_step, result.max_step]
        param_groups = "equal" if result.same_param_groups else "DIFFER"
        rows.append([recipe, *map("{:.0e}".format, first_cells), param_groups, *map("{:.0e}".format, last_cells)])
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _build(recipe: str, checkout: str, size: int, every_token: bool) -> _Pair:
    official = official_code.official_config(checkout, recipe, size)
    queries = (
        [f"model.decoder.queries.num_queries={official_code.select_every_token(official, size)}"] if every_token else []
    )
    config = load_config(recipe, queries)
    torch.manual_seed(0)
    theirs, ours = official.model, build(config, "model")
    _perturb(theirs)
    ours.load_state_dict(to_native_layout(StoredWeights("official", theirs.state_dict()), ours), strict=True)
    layout = recognize(theirs.state_dict())
    assert layout is not None, "to_native_layout has recognized it"
    return _Pair(ours, theirs, layout, official.criterion, config, official)


@torch.no_grad()
def _perturb(model: nn.Module) -> None:
    """Add noise to the parameters, since some layers start at zero, and set random batch-norm statistics."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("backbone"):
            parameter.add_(torch.randn_like(parameter) * 0.02)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


@torch.no_grad()
def _compare_outputs(pair: _Pair, batches: Sequence[Sequence[dict]]) -> float:
    pair.ours.eval(), pair.theirs.eval()
    max_differences: list[float] = []
    for batch in batches:
        pixels, _ = _official_batch(batch)
        official_outputs = pair.theirs(pixels)
        groups, _ = pair.ours.decoder(pair.ours.encoder(pair.ours.backbone(pixels)))
        ours = torch.cat([groups["main"].logits[-1], groups["main"].boxes[-1]], dim=-1)
        theirs = torch.cat([official_outputs["pred_logits"], official_outputs["pred_boxes"]], dim=-1)
        # Queries are ordered by token score, which rounding changes: compare each with its nearest counterpart.
        distances = torch.cdist(theirs, ours, p=float("inf"), compute_mode="donot_use_mm_for_euclid_dist")
        max_differences.extend(distances.amin(dim=-1).amax(dim=-1).tolist())
    return statistics.median(max_differences)


def _compare_gradients(pair: _Pair, samples: Sequence[dict]) -> tuple[float, float, float]:
    our_losses, official_losses = _losses(pair, samples, seed=0)
    unmatched = our_losses.keys() ^ official_losses.keys()
    if unmatched:
        raise AssertionError(f"losses that only one of the two models has: {sorted(unmatched)}")
    total = sum(official_losses.values(), torch.zeros(()))
    losses = max(
        float((our_losses[name] - official_losses[name]).detach().abs() / total.detach()) for name in official_losses
    )
    ours = _gradients(pair.ours, our_losses)
    theirs, _ = pair.layout.to_native(_gradients(pair.theirs, official_losses))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    single_thread = _gradients(pair.ours, _losses(pair, samples, seed=0)[0])
    torch.set_num_threads(threads)
    return losses, _largest_difference(ours, theirs), _largest_difference(ours, single_thread)


def _gradients(model: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum(losses.values(), torch.zeros(())).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _largest_difference(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Return the largest difference of an element, relative to the largest norm of a parameter's gradient."""
    max_norm = max(float(gradient.norm()) for gradient in reference.values())
    return max(float((ours[name] - reference[name]).abs().max()) / max_norm for name in ours.keys() & reference.keys())


def _losses(pair: _Pair, samples: Sequence[dict], seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the loss terms of both models for one batch, with the same random seed."""
    pair.ours.train(), pair.theirs.train()
    pixels, targets = _official_batch(samples)
    _seed(seed)
    ours = pair.ours(list(samples))
    _seed(seed)
    outputs = pair.theirs(pixels, targets=targets)
    terms = pair.criterion(outputs, targets, epoch=0, step=0, global_step=0, epoch_step=ITERS_PER_EPOCH)
    return ours, terms


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _official_batch(samples: Sequence[dict]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return pixels (B, 3, H, W) in [0, 1], and targets in the format of the official code."""
    pixels = torch.stack([sample["image"].float() / 255 for sample in samples])
    targets = []
    for sample in samples:
        height, width = sample["image"].shape[-2:]
        corners = sample["instances"].gt_boxes.tensor
        boxes = box_xyxy_to_cxcywh(corners) / torch.tensor([width, height, width, height])
        targets.append({"labels": sample["instances"].gt_classes, "boxes": boxes})
    return pixels, targets


def _our_optimizer(pair: _Pair) -> torch.optim.Optimizer:
    pair.recipe.optimizer.params.model = pair.ours
    return instantiate(pair.recipe.optimizer)


def _has_same_param_groups(pair: _Pair) -> bool:
    """Return True if each parameter has the same learning rate and weight decay in both optimizers."""
    names = {id(p): n for n, p in pair.theirs.named_parameters()}

    def settings(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, tuple[float, float]]:
        return {
            names[id(p)]: (group["lr"], group["weight_decay"])
            for group in optimizer.param_groups
            for p in group["params"]
        }

    official = settings(pair.official.optimizer, names)
    translated, _ = pair.layout.to_native({name: torch.tensor(values) for name, values in official.items()})
    ours = settings(_our_optimizer(pair), {id(p): n for n, p in pair.ours.named_parameters()})
    return ours.keys() == translated.keys() and all(
        torch.allclose(translated[name], torch.tensor(values)) for name, values in ours.items()
    )


def _compare_learning_rates(pair: _Pair) -> float:
    schedule = instantiate(pair.recipe.schedule)
    count = schedule.epochs * ITERS_PER_EPOCH
    ours: Callable[[float], float] = LearningRate(schedule, count)
    differences = [
        abs(ours(index / count) - rate)
        for index, rate in enumerate(official_code.official_learning_rates(pair.official, ITERS_PER_EPOCH))
    ]
    return max(differences)


def _compare_steps(pair: _Pair, batches: Sequence[Sequence[dict]], steps: int) -> list[float]:
    optimizers = (_our_optimizer(pair), pair.official.optimizer)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] /= LEARNING_RATE_DIVISOR
    differences = []
    for step in range(steps):
        losses = _losses(pair, batches[step % len(batches)], seed=step)
        totals = [sum(terms.values(), torch.zeros(())) for terms in losses]
        differences.append(float((totals[0] - totals[1]).detach().abs() / totals[1].detach()))
        for total, optimizer, model in zip(totals, optimizers, (pair.ours, pair.theirs), strict=True):
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), pair.recipe.train.clip_grad.params.max_norm)
            optimizer.step()
    return differences
