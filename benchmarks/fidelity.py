"""Numerical comparison of a recipe with the official code of DEIM, DEIMv2 or EdgeCrafter.

Both have the same weights, images and noise.

Run :func:`compare` in a separate process for each recipe: the registries of the official code are global.
"""

import itertools
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BitMasks, Instances
from detrex.layers import box_xyxy_to_cxcywh
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks import official_code
from benchmarks.augmentation import recipe_augmentation
from benchmarks.random_weights import perturb
from deim.checkpoint.formats import Format, recognize
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import build, load_config
from deim.data.augmentation import Resize
from deim.data.mapper import DetectionMapper
from deim.errors import ConfigError
from deim.schedule import LearningRate
from deim.structures.predictions import Predictions

# Iterations per epoch for the comparison of learning rates; schedules count warm-up in iterations. EdgeCrafter limits
# its warm-up of 2000 iterations to three epochs.
ITERS_PER_EPOCH = 1000
# Adam's first steps amplify rounding errors. A small learning rate keeps both models close.
LEARNING_RATE_DIVISOR = 100
# Every so many pixels of a mask are compared.
_MASK_STEP = 7


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
        late_losses: like ``losses``, the maximum over the epoch in which DEIMv2's late matching cost begins and the
            epoch before; None for a recipe without such a cost.
        same_param_groups: True if all parameters have the same learning rate and weight decay.
        augmentation_epochs: number of epochs in which the augmentation of training images differs.
        learning_rates: largest difference of the learning rate over the whole schedule, relative to the base.
        median_step: median over the training steps of the relative difference of the total loss.
        max_step: maximum over the training steps of the relative difference of the total loss.
    """

    outputs: float
    losses: float
    gradients: float
    thread_rounding: float
    late_losses: float | None
    same_param_groups: bool
    augmentation_epochs: int
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
    recipe: str,
    checkout: str,
    samples: Sequence[dict],
    size: int,
    steps: int,
    every_token: bool = False,
    float64: bool = False,
) -> Fidelity:
    """Build the model of this project and the official model, and compare them.

    Args:
        recipe: name of a recipe that the official code also has.
        checkout: checkout of the official code of DEIM, DEIMv2 or EdgeCrafter.
        samples: samples from :func:`load_samples`, used in batches of two.
        size: side of the square images in pixels.
        steps: number of training steps.
        every_token: use all tokens as queries instead of the best, so that rounding cannot change the selection.
        float64: compute in float64 instead of float32.
    """
    if float64:
        torch.set_default_dtype(torch.float64)
    samples = [_in_default_dtype(sample) for sample in samples]
    pair = _build(recipe, checkout, size, every_token)
    batches = [samples[i : i + 2] for i in range(0, len(samples) - 1, 2)]
    outputs = _compare_outputs(pair, batches)
    losses, gradients, thread_rounding = _compare_gradients(pair, batches[0])
    late_losses = _compare_late_losses(pair, batches[0])
    same_param_groups, learning_rates = _has_same_param_groups(pair), _compare_learning_rates(pair)
    differences = _compare_steps(pair, batches, steps)
    return Fidelity(
        outputs=outputs,
        losses=losses,
        gradients=gradients,
        thread_rounding=thread_rounding,
        late_losses=late_losses,
        same_param_groups=same_param_groups,
        augmentation_epochs=_compare_augmentation(pair),
        learning_rates=learning_rates,
        median_step=statistics.median(differences),
        max_step=max(differences),
    )


def load_samples(json_file: str, image_root: str, size: int, count: int) -> list[dict]:
    """Return the first ``count`` images with objects, resized to squares of ``size`` pixels, as training samples.

    The mask of an object is the ellipse in its box, so that annotations without masks suffice.

    Raises:
        ConfigError: if fewer images have objects.
    """
    records = [record for record in load_coco_json(json_file, image_root, "fidelity") if record["annotations"]]
    if len(records) < count:
        raise ConfigError(f"{json_file} has only {len(records)} images with objects, {count} are needed")
    mapper = DetectionMapper([Resize(size)], is_train=True)
    return [_with_ellipses(mapper(record)) for record in records[:count]]


def _with_ellipses(sample: dict) -> dict:
    """Add masks to a sample: the ellipses in the boxes."""
    height, width = sample["image"].shape[-2:]
    left, top, right, bottom = (side[:, None, None] for side in sample["instances"].gt_boxes.tensor.unbind(dim=1))
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    horizontal = (2 * columns - left - right) / (right - left)
    vertical = (2 * rows - top - bottom) / (bottom - top)
    sample["instances"].gt_masks = BitMasks(horizontal**2 + vertical**2 <= 1)
    return sample


def report(results: Mapping[str, Fidelity]) -> str:
    """Return a table with a row for each recipe."""
    rows = [_row(recipe, result) for recipe, result in results.items()]
    # Only recipes of DEIMv2 have a late cost.
    if all(result.late_losses is None for result in results.values()):
        for row in rows:
            del row["late cost"]
    return tabulate(rows, "keys", tablefmt="github", disable_numparse=True)


def _row(recipe: str, result: Fidelity) -> dict[str, str]:
    numbers = {
        "predictions": result.outputs,
        "loss terms": result.losses,
        "late cost": result.late_losses,
        "gradients": result.gradients,
        "one thread": result.thread_rounding,
        "learning rates": result.learning_rates,
        "steps": result.median_step,
        "largest": result.max_step,
    }
    cells = {name: "" if number is None else f"{number:.0e}" for name, number in numbers.items()}
    cells["groups"] = "equal" if result.same_param_groups else "DIFFER"
    differing = result.augmentation_epochs
    cells["augmentation"] = f"{differing} epochs differ" if differing else "equal"
    columns = ["predictions", "loss terms", "late cost", "gradients", "one thread", "groups", "augmentation"]
    return {"recipe": recipe} | {name: cells[name] for name in [*columns, "learning rates", "steps", "largest"]}


def _in_default_dtype(sample: dict) -> dict:
    """Return a sample whose boxes have torch's default dtype, which the constructor of Boxes does not keep."""
    instances = Instances(sample["instances"].image_size, **sample["instances"].get_fields())
    instances.gt_boxes = instances.gt_boxes.clone()
    instances.gt_boxes.tensor = instances.gt_boxes.tensor.to(torch.get_default_dtype())
    return {**sample, "instances": instances}


def _build(recipe: str, checkout: str, size: int, every_token: bool) -> _Pair:
    with official_code.in_default_dtype():
        official = official_code.official_config(checkout, recipe, size)
        queries = official_code.select_every_token(official, size) if every_token else None
        torch.manual_seed(0)
        theirs, criterion = official_code.official_model(official), official.criterion
    config = load_config(recipe, [] if queries is None else [f"model.decoder.queries.num_queries={queries}"])
    ours = build(config, "model")
    perturb(theirs, ("encoder", "decoder", "backbone.dinov3", "backbone.backbone"))
    ours.load_state_dict(to_native_layout(StoredWeights("official", theirs.state_dict()), ours), strict=True)
    layout = recognize(theirs.state_dict())
    assert layout is not None, "to_native_layout has recognized it"
    return _Pair(ours, theirs, layout, criterion, config, official)


@torch.no_grad()
def _compare_outputs(pair: _Pair, batches: Sequence[Sequence[dict]]) -> float:
    pair.ours.eval(), pair.theirs.eval()
    max_differences: list[float] = []
    for batch in batches:
        pixels, _ = _official_batch(pair.official, batch)
        with official_code.in_default_dtype():
            official_outputs = pair.theirs(pixels)
        images = torch.stack([sample["image"] for sample in batch])
        groups, _ = pair.ours.decoder(pair.ours.encode(pair.ours.normalize(images)))
        ours = _predicted_values(groups["main"])
        theirs = torch.cat([official_outputs["pred_logits"], official_outputs["pred_boxes"]], dim=-1)
        if official_outputs.get("pred_masks") is not None:
            theirs = torch.cat([theirs, official_outputs["pred_masks"].flatten(2)[..., ::_MASK_STEP]], dim=-1)
        # Queries are ordered by token score, which rounding changes: compare each with its nearest counterpart.
        distances = torch.cdist(theirs, ours, p=float("inf"), compute_mode="donot_use_mm_for_euclid_dist")
        max_differences.extend(distances.amin(dim=-1).amax(dim=-1).tolist())
    return statistics.median(max_differences)


def _predicted_values(predictions: Predictions) -> Tensor:
    """Return the (B, Q, N) logits and boxes of the last layer, and the logits of some pixels of its masks."""
    values = [predictions.logits[-1], predictions.boxes[-1]]
    if predictions.masks is not None:
        images, queries = values[0].shape[:2]
        masks = predictions.masks.select(-1, torch.arange(queries).expand(images, -1))
        values.append(masks.flatten(2)[..., ::_MASK_STEP])
    return torch.cat(values, dim=-1)


def _compare_gradients(pair: _Pair, samples: Sequence[dict]) -> tuple[float, float, float]:
    our_losses, official_losses = _losses(pair, samples, seed=0)
    losses = _largest_loss_difference(our_losses, official_losses)
    ours = _gradients(pair.ours, our_losses)
    theirs, _ = pair.layout.to_native(_gradients(pair.theirs, official_losses))
    unmatched = ours.keys() ^ theirs.keys()
    if unmatched:
        raise AssertionError(f"gradients that only one of the two models has: {sorted(unmatched)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    single_thread = _gradients(pair.ours, _losses(pair, samples, seed=0)[0])
    torch.set_num_threads(threads)
    return losses, _largest_difference(ours, theirs), _largest_difference(ours, single_thread)


def _compare_late_losses(pair: _Pair, samples: Sequence[dict]) -> float | None:
    """Compare the losses of the first epoch with DEIMv2's late matching cost, and of the epoch before."""
    change = official_code.matcher_change_epoch(pair.official)
    if change is None:
        return None
    with torch.no_grad():
        before, after = (_losses(pair, samples, seed=0, epoch=epoch) for epoch in (change - 1, change))
    # If the two costs led to the same matching, the comparison would prove nothing.
    if all(torch.equal(before[1][name], after[1][name]) for name in before[1]):
        raise AssertionError("the late matching cost has no effect on the official losses")
    return max(_largest_loss_difference(*losses) for losses in (before, after))


def _largest_loss_difference(ours: Mapping[str, Tensor], official: Mapping[str, Tensor]) -> float:
    """Return the largest difference of a loss term, relative to the sum of the official terms."""
    unmatched = ours.keys() ^ official.keys()
    if unmatched:
        raise AssertionError(f"losses that only one of the two models has: {sorted(unmatched)}")
    total = sum(official.values(), torch.zeros(())).detach()
    return max(float((ours[name] - official[name]).detach().abs() / total) for name in official)


def _gradients(model: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum(losses.values(), torch.zeros(())).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _largest_difference(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Return the largest difference of an element, relative to the largest norm of a parameter's gradient."""
    max_norm = max(float(gradient.norm()) for gradient in reference.values())
    return max(float((ours[name] - reference[name]).abs().max()) / max_norm for name in reference)


def _losses(
    pair: _Pair, samples: Sequence[dict], seed: int, epoch: int = 0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the loss terms of both models for one batch, with the same random seed."""
    pair.ours.train(), pair.theirs.train()
    pixels, targets = _official_batch(pair.official, samples)
    pair.ours.criterion.epoch = epoch
    with official_code.fixed_mask_points():
        _seed(seed)
        ours = pair.ours(list(samples))
        _seed(seed)
        with official_code.in_default_dtype():
            outputs = pair.theirs(pixels, targets=targets)
            terms = pair.criterion(outputs, targets, epoch=epoch, step=0, global_step=0, epoch_step=ITERS_PER_EPOCH)
    # EdgeCrafter also has a distillation loss of the layer that is its own teacher, which is zero.
    return ours, {name: term for name, term in terms.items() if name in ours or bool(term != 0)}


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _official_batch(official: Any, samples: Sequence[dict]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return images (B, 3, H, W), normalized as for an official config, and targets in the official format."""
    images = torch.stack([sample["image"] for sample in samples]).to(torch.get_default_dtype()) / 255
    pixels = official_code.normalize_as_official(official, images)
    targets = []
    for sample in samples:
        height, width = sample["image"].shape[-2:]
        corners = sample["instances"].gt_boxes.tensor
        boxes = box_xyxy_to_cxcywh(corners) / torch.tensor([width, height, width, height])
        targets.append({"labels": sample["instances"].gt_classes, "boxes": boxes})
        if official_code.predicts_masks(official):
            targets[-1]["masks"] = sample["instances"].gt_masks.tensor
    return pixels, targets


def _our_optimizer(pair: _Pair) -> torch.optim.Optimizer:
    pair.recipe.optimizer.params.model = pair.ours
    return instantiate(pair.recipe.optimizer)


def _has_same_param_groups(pair: _Pair) -> bool:
    """Return True if each parameter has the same learning rate and weight decay in both optimizers."""
    official, ours = pair.official.optimizer, _our_optimizer(pair)
    settings = sorted({_settings(group) for group in official.param_groups})
    # Translation may split a parameter: represent its settings by a tensor of its shape.
    names = {id(p): name for name, p in pair.theirs.named_parameters()}
    indices = {
        names[id(p)]: torch.full_like(p, settings.index(_settings(group)))
        for group in official.param_groups
        for p in group["params"]
    }
    translated, _ = pair.layout.to_native(indices)
    our_names = {id(p): name for name, p in pair.ours.named_parameters()}
    our_settings = {our_names[id(p)]: _settings(group) for group in ours.param_groups for p in group["params"]}
    return our_settings.keys() == translated.keys() and all(
        bool((translated[name] == settings.index(value)).all()) if value in settings else False
        for name, value in our_settings.items()
    )


def _settings(group: Mapping[str, Any]) -> tuple[float, float]:
    """Return the learning rate and the weight decay of a parameter group."""
    return round(group["lr"], 12), round(group["weight_decay"], 12)


def _compare_augmentation(pair: _Pair) -> int:
    """Return the number of epochs in which the augmentation of training images differs."""
    ours, official = recipe_augmentation(pair.recipe), official_code.official_augmentation(pair.official)
    return sum(a != b for a, b in itertools.zip_longest(ours, official))


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
