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

from deim.benchmarks.isolation import in_its_own_process
from deim.benchmarks.peers import official_average, official_config, require_checkout
from deim.benchmarks.timing import report, synchronize
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import load_config
from deim.devices import PRECISIONS
from deim.engine.cpu_memory import keep_freed_memory
from deim.engine.ema import EMAHook
from deim.engine.model import build_model, prepare_for_training

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
        center = torch.rand(objects, 2, generator=generator) * 0.6 + 0.2
        side = torch.rand(objects, 2, generator=generator) * 0.3 + 0.02
        labels = torch.randint(classes, (objects,), generator=generator)
        targets.append({"labels": labels, "boxes": torch.cat([center, side], dim=1)})
    return pixels, targets


class Stopwatch:
    """Timer for the phases of a step, in seconds, including the work queued on the device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.start()

    def start(self) -> None:
        self.phases = dict.fromkeys(PHASES, 0.0)
        self.last = self._now()

    def end(self, phase: str) -> None:
        """Add the time since the previous call, or since :meth:`start`, to ``phase``."""
        before, self.last = self.last, self._now()
        self.phases[phase] += self.last - before

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


class Step:
    """A training step, and the context that its implementation trains in."""

    def __call__(self) -> None:
        raise NotImplementedError

    def surroundings(self) -> AbstractContextManager:
        """Return the context in which the implementation trains."""
        return nullcontext()


class OurStep(Step):
    """A step of :class:`deim.engine.Trainer`, including its EMA."""

    def __init__(self, config: Any, model: nn.Module, batch: Batch, amp: str | None, watch: Stopwatch):
        self.model, self.amp, self.watch = model.train(), amp, watch
        config.optimizer.params.model = model
        self.optimizer = instantiate(config.optimizer)
        self.max_norm = config.train.clip_grad.params.max_norm
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.average = EMAHook(model, EMAState())
        self.average.before_train()
        self.samples = [_sample(image, target) for image, target in zip(*batch, strict=True)]
        assert isinstance(model.criterion, nn.Module)
        model.criterion.register_forward_pre_hook(lambda *_: watch.end("forward"))

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.watch.device.type, PRECISIONS.get(self.amp or ""), enabled=self.amp is not None):
            total = sum(self.model(self.samples).values(), torch.zeros((), device=self.watch.device))
        self.watch.end("criterion")
        total.backward()
        self.watch.end("backward")
        nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.optimizer.step()
        self.average.after_step()
        self.watch.end("update")

    def surroundings(self) -> AbstractContextManager:
        return keep_freed_memory(self.watch.device)


class OfficialStep(Step):
    """A step of the official code, including its EMA."""

    def __init__(self, official: Any, batch: Batch, amp: str | None, watch: Stopwatch):
        self.model, self.criterion = official.model.to(watch.device).train(), official.criterion.to(watch.device)
        self.amp, self.watch, self.max_norm = amp, watch, official.clip_max_norm
        self.optimizer, self.average = official.optimizer, official_average(official.model)
        self.pixels, self.targets = batch

    def __call__(self) -> None:
        device = self.watch.device
        pixels = self.pixels.to(device).float() / 255
        targets = [{name: value.to(device) for name, value in target.items()} for target in self.targets]
        with torch.autocast(device.type, PRECISIONS.get(self.amp or ""), enabled=self.amp is not None):
            outputs = self.model(pixels, targets=targets)
        self.watch.end("forward")
        with torch.autocast(device.type, enabled=False):
            terms = self.criterion(outputs, targets, epoch=0, step=0, global_step=0, epoch_step=1)
        total = sum(terms.values(), torch.zeros((), device=device))
        self.watch.end("criterion")
        self.optimizer.zero_grad()
        total.backward()
        self.watch.end("backward")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.average.update(self.model)
        self.watch.end("update")


def _sample(image: Tensor, target: Mapping[str, Tensor]) -> dict:
    height, width = image.shape[-2:]
    boxes = Boxes(box_cxcywh_to_xyxy(target["boxes"]) * torch.tensor([width, height, width, height]))
    instances = Instances((height, width), gt_boxes=boxes, gt_classes=target["labels"])
    return {"image": image, "height": height, "width": width, "instances": instances}


def our_step(
    recipe: str, overrides: Sequence[str], weights: dict | None, batch: Batch, amp: str | None, watch: Stopwatch
) -> OurStep:
    """Return the training step of a recipe.

    Args:
        recipe: name of the recipe.
        overrides: config overrides.
        weights: state dict in the official layout; None for random weights.
        batch: the batch from :func:`random_batch`.
        amp: dtype of mixed precision, such as "bfloat16", or None.
        watch: the timer of the phases.
    """
    config = load_config(recipe, [f"train.device={watch.device}", *overrides])
    model = build_model(config)
    if weights is not None:
        model.load_state_dict(to_native_layout(StoredWeights("official", weights), model), strict=True)
    return OurStep(config, prepare_for_training(config, model), batch, amp, watch)


# {name of a variant of our step: its config overrides}
Forms = Mapping[str, Sequence[str]]


def forms_of(others: Sequence[str]) -> Forms:
    """Return the variants to measure: the recipe unchanged, with contiguous memory format, and with each override."""
    forms = {"deim": [], "deim, contiguous": ["train.memory_format=contiguous"]}
    return forms | {f"deim, {override}": [override] for override in others}


def measure(
    recipe: str, peer: str | None, batch: tuple[int, int, int], rounds: int, device: str, amp: str | None, forms: Forms
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
        forms: variants from :func:`forms_of`.

    Returns:
        {name of the step: for each round, {phase: seconds}}.
    """
    watch, example = Stopwatch(torch.device(device)), random_batch(recipe, *batch)
    torch.manual_seed(0)
    steps: dict[str, Step] = {}
    weights = None
    if peer is not None:
        official = official_config(peer, recipe, batch[2])
        weights = copy.deepcopy(official.model.state_dict())
        steps["official"] = OfficialStep(official, example, amp, watch)
    for name, overrides in forms.items():
        steps[name] = our_step(recipe, overrides, weights, example, amp, watch)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            with step.surroundings():
                step()
                watch.start()
                step()
            if number >= 1:
                found[name].append(dict(watch.phases))
    return found


def peak_memory(
    recipe: str,
    peer: str | None,
    batch: tuple[int, int, int],
    device: str,
    amp: str | None,
    overrides: Sequence[str] = (),
) -> float:
    """Return the peak memory in MiB of three training steps; call it in a separate process.

    On the CPU, the memory before the first step, with the model, is subtracted; on a GPU, the peak of torch's allocator
    includes it. Measures the official code if ``peer`` names a checkout, else this project.
    """
    watch, example = Stopwatch(torch.device(device)), random_batch(recipe, *batch)
    step: Step
    if peer is not None:
        step = OfficialStep(official_config(peer, recipe, batch[2]), example, amp, watch)
    else:
        step = our_step(recipe, overrides, None, example, amp, watch)
    before = _resident()
    with step.surroundings():
        for _ in range(3):
            step()
    if watch.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _resident() - before


def _resident() -> float:
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
    others: Sequence[str],
    path: str | None,
) -> None:
    """Print the minimum time of each phase over several rounds, the ratio to the official code, and the memory.

    Args:
        recipe: name of the recipe.
        peer: checkout of the official DEIM code, or None.
        batch: (images, objects per image, side of the square images in pixels).
        rounds: number of timed rounds.
        device: such as "cpu" or "cuda".
        amp: dtype of mixed precision, such as "bfloat16", or None.
        others: config overrides, each measured as a further variant.
        path: JSON file for the results; None for none.

    Raises:
        ConfigError: if ``peer`` is not a checkout of the official DEIM code.
    """
    if peer is not None:
        require_checkout(peer)
    forms = forms_of(others)
    # Each in a separate process: a GPU accounts memory per process, while parallel runs would overload a CPU.
    at_once = 1 if torch.device(device).type == "cpu" else len(forms) + 1
    with ThreadPoolExecutor(at_once) as pool:
        measured = {
            name: pool.submit(in_its_own_process, peak_memory, recipe, None, batch, device, amp, overrides)
            for name, overrides in forms.items()
        }
        if peer is not None:
            measured["official"] = pool.submit(in_its_own_process, peak_memory, recipe, peer, batch, device, amp)
        memory = {name: one.result() for name, one in measured.items()}
    times = measure(recipe, peer, batch, rounds, device, amp, forms)
    totals = {name: [sum(phases.values()) for phases in values] for name, values in times.items()}
    found = []
    for name, values in times.items():
        row: dict[str, Any] = {"run": name, "step, ms": 1e3 * min(totals[name])}
        row["median, ms"] = 1e3 * statistics.median(totals[name])
        if peer is not None:
            row["/ official"] = min(totals[name]) / min(totals["official"])
        row |= {f"{phase}, ms": 1e3 * min(one[phase] for one in values) for phase in PHASES}
        found.append(row | {"memory, MiB": memory[name]})
    report(found, path, torch.device(device))
