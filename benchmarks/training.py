"""Time of the phases of a training step, and its memory, compared with the official code."""

import copy
import inspect
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psutil
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detrex.layers import box_cxcywh_to_xyxy
from detrex.modeling.ema import EMAState
from torch import Tensor, nn

from benchmarks.isolation import run_in_new_process
from benchmarks.official_code import (
    OFFICIAL,
    official_config,
    official_ema,
    official_model,
    official_target,
    poses_on,
    recognize_checkout,
    train_poses_in_full_precision,
)
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import load_config
from deim.config.annotations import keypoint_node
from deim.config.masks import has_masks
from deim.devices import PRECISIONS
from deim.engine.hooks.ema import EMAHook
from deim.engine.model import build_model, prepare_for_training
from deim.engine.performance.cpu_memory import keep_freed_memory
from deim.measurement.timing import print_report, synchronize

PHASES = ("forward", "criterion", "backward", "update")
Batch = tuple[Tensor, list[dict[str, Tensor]]]


def random_batch(recipe: str, images: int, objects: int, size: int) -> Batch:
    """Return a random batch.

    Args:
        recipe: name of the recipe, for the number of classes, and for whether its model predicts masks or keypoints.
        images: number of images B.
        objects: number of objects per image.
        size: side of the square images in pixels.

    Returns:
        Pixels (B, 3, size, size), uint8, and for each image ``labels`` (N,) and ``boxes`` (N, 4), CXCYWH relative to
        the image; with masks, ``masks`` (N, size, size) bool; with keypoints, ``keypoints`` (N, P, 3), x and y relative
        to the image, visibility of 0 or 1, and ``area`` (N,) relative to the image.
    """
    model = load_config(recipe).model
    keypoints = keypoint_node(model)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator)
    targets = []
    for _ in range(images):
        centers = torch.rand(objects, 2, generator=generator) * 0.6 + 0.2
        sizes = torch.rand(objects, 2, generator=generator) * 0.3 + 0.02
        labels = torch.randint(model.num_classes, (objects,), generator=generator)
        target = {"labels": labels, "boxes": torch.cat([centers, sizes], dim=1)}
        if has_masks(model):
            target["masks"] = _ellipses(target["boxes"], size)
        if keypoints is not None:
            target["keypoints"] = _random_keypoints(centers, sizes, keypoints.num_keypoints, generator)
            target["area"] = sizes.prod(dim=1) / 2
        targets.append(target)
    return pixels, targets


def _ellipses(boxes: Tensor, size: int) -> Tensor:
    """Return (N, size, size) bool, True inside of the ellipses in the boxes (N, 4), CXCYWH relative to the image."""
    centers, sides = boxes[:, None, None].chunk(2, dim=-1)
    positions = (torch.arange(size) + 0.5) / size
    x, y = torch.meshgrid(positions, positions, indexing="xy")
    return ((torch.stack([x, y], dim=-1) - centers) / sides).square().sum(dim=-1) < 0.25


def _random_keypoints(centers: Tensor, sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return (N, count, 3) keypoints in the boxes; about two thirds are labeled, among them the first of each object."""
    offsets = torch.rand(len(centers), count, 2, generator=generator) - 0.5
    is_labeled = torch.rand(len(centers), count, 1, generator=generator) < 0.7
    is_labeled[:, 0] = True
    return torch.cat([(centers[:, None] + offsets * sizes[:, None]) * is_labeled, is_labeled], dim=-1)


class PhaseTimer:
    """Timer for the phases of a step, in seconds, including the work queued on the device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.start()

    def start(self) -> None:
        self.phases = dict.fromkeys(PHASES, 0.0)
        self.previous = self._now()

    def end(self, phase: str) -> None:
        """Add the time since the previous call, or since :meth:`start`, to ``phase``."""
        start, self.previous = self.previous, self._now()
        self.phases[phase] += self.previous - start

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


class Step:
    """A training step, and the context that its implementation trains in."""

    def __call__(self) -> None:
        raise NotImplementedError

    def training_context(self) -> AbstractContextManager:
        """Return the context in which the implementation trains."""
        return nullcontext()


class OurStep(Step):
    """A step of :class:`deim.engine.Trainer`, including its EMA."""

    def __init__(self, config: Any, model: nn.Module, batch: Batch, amp: str | None, timer: PhaseTimer):
        self.model, self.amp, self.timer = model.train(), amp, timer
        config.optimizer.params.model = model
        self.optimizer = instantiate(config.optimizer)
        self.max_norm = config.train.clip_grad.params.max_norm
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.ema = EMAHook(model, EMAState())
        self.ema.before_train()
        self.samples = [_sample(image, target) for image, target in zip(*batch, strict=True)]
        assert isinstance(model.criterion, nn.Module)
        model.criterion.register_forward_pre_hook(lambda *_: timer.end("forward"))

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.timer.device.type, PRECISIONS.get(self.amp or ""), enabled=self.amp is not None):
            total = sum(self.model(self.samples).values(), torch.zeros((), device=self.timer.device))
        self.timer.end("criterion")
        total.backward()
        self.timer.end("backward")
        nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.optimizer.step()
        self.ema.after_step()
        self.timer.end("update")

    def training_context(self) -> AbstractContextManager:
        return keep_freed_memory(self.timer.device)


class OfficialStep(Step):
    """A step of the official code, including its EMA."""

    def __init__(self, official: Any, batch: Batch, amp: str | None, timer: PhaseTimer):
        self.model = official_model(official).to(timer.device).train()
        if amp is None:
            train_poses_in_full_precision(self.model)
        self.criterion = official.criterion.to(timer.device)
        self.amp, self.timer, self.max_norm = amp, timer, official.clip_max_norm
        self.optimizer, self.ema = official.optimizer, official_ema(self.model)
        self.pixels, self.targets = batch[0], [official_target(target) for target in batch[1]]
        # That of ECPose has no further arguments.
        has_epoch = len(inspect.signature(self.criterion.forward).parameters) > 2
        self.epoch = {"epoch": 0, "step": 0, "global_step": 0, "epoch_step": 1} if has_epoch else {}

    def __call__(self) -> None:
        device = self.timer.device
        pixels = self.pixels.to(device).float() / 255
        targets = [{name: value.to(device) for name, value in target.items()} for target in self.targets]
        with torch.autocast(device.type, PRECISIONS.get(self.amp or ""), enabled=self.amp is not None):
            outputs = self.model(pixels, targets=targets)
        self.timer.end("forward")
        with torch.autocast(device.type, enabled=False):
            terms = self.criterion(outputs, targets, **self.epoch)
        total = sum(terms.values(), torch.zeros((), device=device))
        self.timer.end("criterion")
        self.optimizer.zero_grad()
        total.backward()
        self.timer.end("backward")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.ema.update(self.model)
        self.timer.end("update")

    def training_context(self) -> AbstractContextManager:
        return poses_on(self.timer.device)


def _sample(image: Tensor, target: Mapping[str, Tensor]) -> dict:
    height, width = image.shape[-2:]
    boxes = Boxes(box_cxcywh_to_xyxy(target["boxes"]) * torch.tensor([width, height, width, height]))
    instances = Instances((height, width), gt_boxes=boxes, gt_classes=target["labels"])
    if "masks" in target:
        instances.gt_masks = BitMasks(target["masks"])
    if "keypoints" in target:
        instances.gt_keypoints = Keypoints(target["keypoints"] * torch.tensor([width, height, 1]))
        instances.gt_areas = target["area"] * width * height
    return {"image": image, "height": height, "width": width, "instances": instances}


def our_step(
    recipe: str, overrides: Sequence[str], weights: dict | None, batch: Batch, amp: str | None, timer: PhaseTimer
) -> OurStep:
    """Return the training step of a recipe.

    Args:
        recipe: name of the recipe.
        overrides: config overrides.
        weights: state dict in the official layout; None for random weights.
        batch: the batch from :func:`random_batch`.
        amp: dtype of mixed precision, such as "bfloat16", or None.
        timer: the timer of the phases.
    """
    config = load_config(recipe, [f"train.device={timer.device}", *overrides])
    model = build_model(config)
    if weights is not None:
        model.load_state_dict(to_native_layout(StoredWeights("official", weights), model), strict=True)
    return OurStep(config, prepare_for_training(config, model), batch, amp, timer)


# {name of a variant of our step: its config overrides}
Variants = Mapping[str, Sequence[str]]


def variants_with(overrides: Sequence[str]) -> Variants:
    """Return the variants to measure: the recipe unchanged, with contiguous memory format, and with each override."""
    variants = {"deim": [], "deim, contiguous": ["train.memory_format=contiguous"]}
    return variants | {f"deim, {override}": [override] for override in overrides}


def measure(
    recipe: str,
    peer: str | None,
    batch: tuple[int, int, int],
    rounds: int,
    device: str,
    amp: str | None,
    variants: Variants,
) -> dict[str, list[dict[str, float]]]:
    """Time the phases of several training steps in turn.

    Each timed step follows an untimed one of the same kind, which allocates the memory.

    Args:
        recipe: name of the recipe.
        peer: checkout of the official code, or None.
        batch: (images, objects per image, side of the square images in pixels).
        rounds: number of timed rounds.
        device: such as "cpu" or "cuda".
        amp: dtype of mixed precision, such as "bfloat16", or None.
        variants: variants from :func:`variants_with`.

    Returns:
        {name of the step: for each round, {phase: seconds}}.
    """
    timer, batch_data = PhaseTimer(torch.device(device)), random_batch(recipe, *batch)
    torch.manual_seed(0)
    steps: dict[str, Step] = {}
    weights = None
    common_overrides: tuple[str, ...] = ()
    if peer is not None:
        common_overrides = recognize_checkout(peer).overrides
        official = official_config(peer, recipe, batch[2])
        weights = copy.deepcopy(official_model(official).state_dict())
        steps[OFFICIAL] = OfficialStep(official, batch_data, amp, timer)
    for name, overrides in variants.items():
        steps[name] = our_step(recipe, [*common_overrides, *overrides], weights, batch_data, amp, timer)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            with step.training_context():
                step()
                timer.start()
                step()
            if number >= 1:
                times[name].append(dict(timer.phases))
    return times


def peak_memory(
    recipe: str,
    peer: str | None,
    batch: tuple[int, int, int],
    device: str,
    amp: str | None,
    overrides: Sequence[str] = (),
) -> float:
    """Return the peak memory in MiB of three training steps; call it in a separate process.

    On the CPU, the peak before the first step, with the model, is subtracted; on a GPU, the peak of torch's allocator
    includes it. Measures the official code if ``peer`` names a checkout, else this project.
    """
    timer, batch_data = PhaseTimer(torch.device(device)), random_batch(recipe, *batch)
    step: Step
    if peer is not None:
        step = OfficialStep(official_config(peer, recipe, batch[2]), batch_data, amp, timer)
    else:
        step = our_step(recipe, overrides, None, batch_data, amp, timer)
    initial = _peak_resident_memory()
    with step.training_context():
        for _ in range(3):
            step()
    if timer.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _peak_resident_memory() - initial


def _peak_resident_memory() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # not available on Windows

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def run(
    recipe: str,
    peer: str | None,
    batch: tuple[int, int, int],
    rounds: int,
    device: str,
    amp: str | None,
    overrides: Sequence[str],
    path: str | None,
) -> None:
    """Print the time of a step and of its phases, the ratio to the official code, and the memory.

    Times are minima over several rounds; for the whole step, the median is also printed.

    Args:
        recipe: name of the recipe.
        peer: checkout of the official code, or None.
        batch: (images, objects per image, side of the square images in pixels).
        rounds: number of timed rounds.
        device: such as "cpu" or "cuda".
        amp: dtype of mixed precision, such as "bfloat16", or None.
        overrides: config overrides, each measured as a further variant.
        path: JSON file for the results; None for none.

    Raises:
        ConfigError: if ``peer`` is not a checkout of official code, or if that code has no such model.
    """
    if peer is not None:
        recognize_checkout(peer)
    variants = variants_with(overrides)
    # Each run has its own process. On a GPU, torch counts memory per process, so the runs can be parallel. On a CPU,
    # parallel runs would overload the cores.
    num_parallel = 1 if torch.device(device).type == "cpu" else len(variants) + 1
    with ThreadPoolExecutor(num_parallel) as pool:
        futures = {
            name: pool.submit(run_in_new_process, peak_memory, recipe, None, batch, device, amp, variant_overrides)
            for name, variant_overrides in variants.items()
        }
        if peer is not None:
            futures[OFFICIAL] = pool.submit(run_in_new_process, peak_memory, recipe, peer, batch, device, amp)
        memory = {name: future.result() for name, future in futures.items()}
    times = measure(recipe, peer, batch, rounds, device, amp, variants)
    totals = {name: [sum(phases.values()) for phases in values] for name, values in times.items()}
    table = []
    for name, values in times.items():
        row: dict[str, Any] = {"run": name, "step, ms": 1e3 * min(totals[name])}
        row["median, ms"] = 1e3 * statistics.median(totals[name])
        if peer is not None:
            row["/ official"] = min(totals[name]) / min(totals[OFFICIAL])
        row |= {f"{phase}, ms": 1e3 * min(phases[phase] for phases in values) for phase in PHASES}
        table.append(row | {"memory, MiB": memory[name]})
    print_report(table, path, torch.device(device))
