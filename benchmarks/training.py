"""Time of the phases of a training step, and its memory, compared with the official code."""

import copy
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
from detectron2.structures import Boxes, Instances
from detrex.layers import box_cxcywh_to_xyxy
from detrex.modeling.ema import EMAState
from torch import Tensor, nn

from benchmarks.isolation import run_in_new_process
from benchmarks.official_code import official_config, official_ema, official_model, recognize_checkout
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import load_config
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
        recipe: name of the recipe, for the number of classes.
        images: number of images B.
        objects: number of objects per image.
        size: side of the square images in pixels.

    Returns:
        Pixels (B, 3, size, size), uint8, and for each image ``labels`` (N,) and ``boxes`` (N, 4), CXCYWH relative to
        the image.
    """
    classes = load_config(recipe).model.num_classes
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator)
    targets = []
    for _ in range(images):
        centers = torch.rand(objects, 2, generator=generator) * 0.6 + 0.2
        sizes = torch.rand(objects, 2, generator=generator) * 0.3 + 0.02
        labels = torch.randint(classes, (objects,), generator=generator)
        targets.append({"labels": labels, "boxes": torch.cat([centers, sizes], dim=1)})
    return pixels, targets


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
        self.criterion = official.criterion.to(timer.device)
        self.amp, self.timer, self.max_norm = amp, timer, official.clip_max_norm
        self.optimizer, self.ema = official.optimizer, official_ema(self.model)
        self.pixels, self.targets = batch

    def __call__(self) -> None:
        device = self.timer.device
        pixels = self.pixels.to(device).float() / 255
        targets = [{name: value.to(device) for name, value in target.items()} for target in self.targets]
        with torch.autocast(device.type, PRECISIONS.get(self.amp or ""), enabled=self.amp is not None):
            outputs = self.model(pixels, targets=targets)
        self.timer.end("forward")
        with torch.autocast(device.type, enabled=False):
            terms = self.criterion(outputs, targets, epoch=0, step=0, global_step=0, epoch_step=1)
        total = sum(terms.values(), torch.zeros((), device=device))
        self.timer.end("criterion")
        self.optimizer.zero_grad()
        total.backward()
        self.timer.end("backward")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.ema.update(self.model)
        self.timer.end("update")


def _sample(image: Tensor, target: Mapping[str, Tensor]) -> dict:
    height, width = image.shape[-2:]
    boxes = Boxes(box_cxcywh_to_xyxy(target["boxes"]) * torch.tensor([width, height, width, height]))
    instances = Instances((height, width), gt_boxes=boxes, gt_classes=target["labels"])
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
        peer: checkout of the official DEIM code, or None.
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
    if peer is not None:
        official = official_config(peer, recipe, batch[2])
        weights = copy.deepcopy(official_model(official).state_dict())
        steps["official"] = OfficialStep(official, batch_data, amp, timer)
    for name, overrides in variants.items():
        steps[name] = our_step(recipe, overrides, weights, batch_data, amp, timer)
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
        peer: checkout of the official DEIM code, or None.
        batch: (images, objects per image, side of the square images in pixels).
        rounds: number of timed rounds.
        device: such as "cpu" or "cuda".
        amp: dtype of mixed precision, such as "bfloat16", or None.
        overrides: config overrides, each measured as a further variant.
        path: JSON file for the results; None for none.

    Raises:
        ConfigError: if ``peer`` is not a checkout of the official DEIM code, or if that code has no such model.
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
            futures["official"] = pool.submit(run_in_new_process, peak_memory, recipe, peer, batch, device, amp)
        memory = {name: future.result() for name, future in futures.items()}
    times = measure(recipe, peer, batch, rounds, device, amp, variants)
    totals = {name: [sum(phases.values()) for phases in values] for name, values in times.items()}
    table = []
    for name, values in times.items():
        row: dict[str, Any] = {"run": name, "step, ms": 1e3 * min(totals[name])}
        row["median, ms"] = 1e3 * statistics.median(totals[name])
        if peer is not None:
            row["/ official"] = min(totals[name]) / min(totals["official"])
        row |= {f"{phase}, ms": 1e3 * min(phases[phase] for phases in values) for phase in PHASES}
        table.append(row | {"memory, MiB": memory[name]})
    print_report(table, path, torch.device(device))
