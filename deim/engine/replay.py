"""Repeating a training step with NaN/Inf loss or gradients, to find their origin."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from deim.checkpoint.backbone import unfreeze
from deim.checkpoint.reading import read_checkpoint
from deim.config import build, load_config
from deim.config.portable import from_portable
from deim.devices import PRECISIONS
from deim.engine.non_finite import frozen_norms, restore_sample
from deim.engine.randomness import seed_iteration
from deim.engine.trainer import split_batch
from deim.errors import CheckpointError
from deim.modeling.losses.criterion import criteria
from deim.visualization import draw_objects


@dataclass(frozen=True)
class ReplayResult:
    """Result of a repeated step.

    Attributes:
        losses: losses of this rank's batch.
        first_module: name of the first module with NaN/Inf output; None if there is none.
        gradients: names of the parameters with NaN/Inf gradients.
    """

    losses: dict[str, float]
    first_module: str | None
    gradients: list[str]

    def __str__(self) -> str:
        lines = [f"  {name}: {value:g}" for name, value in self.losses.items()]
        lines.append(f"first module with NaN/Inf output: {self.first_module or 'none'}")
        shown = ", ".join(self.gradients[:5]) + (", ..." if len(self.gradients) > 5 else "")
        lines.append(f"parameters with NaN/Inf gradients: {len(self.gradients)} {shown}".rstrip())
        return "\n".join(lines)


def replay(path: str, config_file: str | None = None, device: str = "cpu") -> ReplayResult:
    """Repeat a step saved by :class:`deim.engine.non_finite.NonFiniteGuard`.

    Weights and images are those of the original step. Random numbers are the same only on the same type of device, because
    the generators of CPUs and GPUs differ.

    Args:
        path: ``non_finite_*.pth`` of the run.
        config_file: config of the run, if the file does not contain it.
        device: torch device to run on, such as "cuda:1".

    Raises:
        CheckpointError: if the file does not exist or is not such a file, or if no config is available.
    """
    content = _read(path)
    model = _build_model(content, path, config_file).to(device).train()
    _freeze_norms(model, content.get("frozen_norms"))
    model.load_state_dict(content["model"])
    for criterion in criteria(model):
        criterion.epoch = content.get("epoch", 0)
    if content["seed"] is not None:
        seed_iteration(content["seed"], content["iteration"], content["rank"])
    samples = [restore_sample(sample) for sample in content["samples"]]
    losses: dict[str, float] = {}
    amp = content["amp"]
    with _record_non_finite_modules(model) as non_finite:
        for part, share in split_batch(samples, content["accumulation_steps"]):
            with torch.autocast(device, PRECISIONS.get(amp or ""), enabled=amp is not None):
                terms = model(part)
            (sum(terms.values()) * share).backward()
            for name, value in terms.items():
                losses[name] = losses.get(name, 0.0) + float(value.detach()) * share
    gradients = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return ReplayResult(losses, non_finite[0] if non_finite else None, gradients)


def draw_batch(path: str, output: str | Path) -> None:
    """Draw the images of a saved step with their ground truth.

    Raises:
        CheckpointError: if the file does not exist or is not such a file.
    """
    samples = (content := _read(path))["samples"]
    images = [sample["image"].permute(1, 2, 0).numpy() for sample in samples]
    objects = [
        (sample["instances"]["gt_boxes"].numpy(), sample["instances"]["gt_classes"].numpy()) for sample in samples
    ]
    highest = max((int(classes.max()) for _, classes in objects if len(classes)), default=-1)
    names = content["deim"].get("classes") or [f"class {index}" for index in range(highest + 1)]
    draw_objects(images, objects, names, output, [str(sample.get("image_id", "")) for sample in samples])


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path} does not exist")
    content = read_checkpoint(path)
    if not {"samples", "losses", "model", "iteration"} <= content.keys():
        raise CheckpointError(f"{path} is not the saved batch of a NaN/Inf step (non_finite_*.pth of a run)")
    return content


def _build_model(content: Mapping[str, Any], path: str, config_file: str | None) -> nn.Module:
    if config_file is not None:
        return build(load_config(config_file), "model")
    config = content["deim"].get("config")
    if config is None:
        raise CheckpointError(f"{path} does not contain the config of its run: give it with --config-file")
    return build(from_portable(config, path), "model")


def _freeze_norms(model: nn.Module, names: Sequence[str] | None) -> None:
    """Freeze the normalization layers that were frozen in the run, and only these, in place.

    Args:
        names: names of the layers; None in files of earlier versions, for which the config decides.
    """
    if names is None:
        return
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module) and set(frozen_norms(model)) - set(names):  # of a run from random weights
        unfreeze(backbone)
    for name in names:
        model.set_submodule(name, FrozenBatchNorm2d.convert_frozen_batchnorm(model.get_submodule(name)))


@contextlib.contextmanager
def _record_non_finite_modules(model: nn.Module) -> Iterator[list[str]]:
    """Collect the names of modules with NaN/Inf output, in order of completion."""
    non_finite: list[str] = []

    def make_hook(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in _tensors(output)):
                non_finite.append(name or type(module).__name__)

        return hook

    handles = [module.register_forward_hook(make_hook(name)) for name, module in model.named_modules()]
    try:
        yield non_finite
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from (tensor for value in output.values() for tensor in _tensors(value))
    elif isinstance(output, list | tuple):
        yield from (tensor for value in output for tensor in _tensors(value))
