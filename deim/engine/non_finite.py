"""Handling of NaN/Inf losses and gradients."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils import comm
from torch import Tensor, nn

from deim.checkpoint.run_checkpointer import atomic_write
from deim.errors import DeimError
from deim.modeling.losses.criterion import criteria

logger = logging.getLogger("detectron2.deim")


ADVICE = (
    "Usually the model has diverged: lower optimizer.lr, clip gradients (train.clip_grad) or use a longer warm-up. "
    "To skip up to ten such steps, set train.max_non_finite_steps=10"
)


class NonFiniteError(DeimError, FloatingPointError):
    """Raised when a loss or a gradient is NaN or Inf."""


class NonFiniteGuard:
    """Guard that stops the run or skips the step before NaN/Inf losses or gradients reach the weights.

    Args:
        model: model without its DistributedDataParallel wrapper.
        folder: directory for the batch of the step that ends the run, for ``deim replay``; "" to not write it.
        allowed: number of steps of the run that may be skipped; the next one ends it.
        metadata: saved with the batch; see :mod:`deim.checkpoint.metadata`.

    Attributes:
        skipped: number of steps skipped so far.
    """

    def __init__(self, model: nn.Module, folder: str = "", allowed: int = 0, metadata: Mapping[str, Any] | None = None):
        self.model, self.folder, self.allowed, self.metadata = model, folder, allowed, metadata
        self.skipped = 0
        self._buffers: list[Tensor] = []

    def before_step(self) -> None:
        """Save the buffers, which the forward pass changes (normalization statistics), if steps may be skipped."""
        if self.allowed:
            self._buffers = [buffer.clone() for buffer in self.model.buffers()]

    def skip_step(
        self, step_info: Mapping[str, Any], losses: Mapping[str, Tensor], norm: float, samples: list[dict]
    ) -> None:
        """Count a step with NaN/Inf losses or gradients in any rank as skipped, and restore the buffers.

        Args:
            step_info: ``iteration`` and the other values needed to repeat the step.
            losses: scalars on the CPU.
            norm: norm of all gradients.
            samples: batch of this rank.

        Raises:
            NonFiniteError: if no further step may be skipped.
        """
        message = _describe_step(step_info["iteration"], losses, norm, samples)
        if self.skipped >= self.allowed:
            raise NonFiniteError(
                f"{message}\n{ADVICE}" + (self._write(step_info, losses, samples) if self.folder else "")
            )
        self.skipped += 1
        logger.warning(f"{message}\nSkipping this step: {self.skipped} of {self.allowed} allowed")
        with torch.no_grad():
            for buffer, saved in zip(self.model.buffers(), self._buffers, strict=True):
                buffer.copy_(saved)

    def _write(self, step_info: Mapping[str, Any], losses: Mapping[str, Tensor], samples: list[dict]) -> str:
        path = os.path.join(self.folder, f"non_finite_{step_info['iteration']:07d}_rank{comm.get_rank()}.pth")
        content = {
            **step_info,
            "epoch": max((criterion.epoch for criterion in criteria(self.model)), default=0),
            "losses": {name: float(value) for name, value in losses.items()},
            "samples": [_to_plain_data(sample) for sample in samples],
            "model": self.model.state_dict(),
            # The config of the model does not state them: train.freeze, and runs from random weights, change them.
            "frozen_norms": frozen_norms(self.model),
            "deim": dict(self.metadata or {}),
        }
        with atomic_write(path) as file:
            torch.save(content, file)
        return f"\nTo find the cause: python -m deim replay {path}"


def frozen_norms(model: nn.Module) -> list[str]:
    """Return the names of the normalization layers whose statistics and parameters are fixed."""
    return [name for name, module in model.named_modules() if isinstance(module, FrozenBatchNorm2d)]


def _describe_step(iteration: int, losses: Mapping[str, Tensor], norm: float, samples: Sequence[dict]) -> str:
    non_finite = {name: float(value) for name, value in losses.items() if not math.isfinite(value)}
    finite = {name: round(float(value), 4) for name, value in losses.items() if name not in non_finite}
    images = ", ".join(str(sample.get("image_id", sample.get("file_name", "?"))) for sample in samples)
    rank = f", in rank {comm.get_rank()} of {comm.get_world_size()}" if comm.get_world_size() > 1 else ""
    lines = [
        f"NaN/Inf loss or gradient at iteration {iteration}{rank}: gradient norm {norm:g}, "
        + (", ".join(f"{name} {value:g}" for name, value in non_finite.items()) or "all losses finite"),
        f"images: {images}",
        f"finite losses: {finite}" if finite else "no finite losses",
    ]
    return "\n".join(lines)


def _to_plain_data(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain data of a sample: numbers, strings and tensors, including those of its instances."""
    plain: dict[str, Any] = {n: value for n, value in sample.items() if isinstance(value, (str, int, float, Tensor))}
    plain["image"] = sample["image"].clone()  # it may be a view of the whole batch
    instances = sample.get("instances")
    if isinstance(instances, Instances):
        plain["instances"] = {name: _plain_field(value) for name, value in instances.get_fields().items()}
        plain["size"] = list(instances.image_size)
    return plain


def _plain_field(value: Any) -> Any:
    """Return a field of instances as a tensor, or polygons as nested lists of tensors."""
    if isinstance(value, PolygonMasks):
        return [[torch.as_tensor(polygon) for polygon in polygons] for polygons in value.polygons]
    return getattr(value, "tensor", value).clone()


def _restore_field(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return PolygonMasks([[polygon.numpy() for polygon in polygons] for polygons in value])
    kinds = {"boxes": Boxes, "keypoints": Keypoints, "masks": BitMasks}
    return kinds.get(name.rpartition("_")[2], lambda plain: plain)(value)


def restore_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a sample of a saved batch to the input format of a model."""
    restored = {name: value for name, value in sample.items() if name not in ("instances", "size")}
    if "instances" in sample:
        fields = {name: _restore_field(name, value) for name, value in sample["instances"].items()}
        restored["instances"] = Instances(tuple(sample["size"]), **fields)
    return restored
