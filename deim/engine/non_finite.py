"""What happens when a loss or a gradient is not finite."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from deim.checkpoint.run_checkpointer import replacing
from deim.errors import DeimError

logger = logging.getLogger("detectron2.deim")


ADVICE = (
    "Most often the model has diverged: lower optimizer.lr, clip gradients (train.clip_grad) or warm up longer. "
    "train.non_finite_steps_allowed=10 leaves such steps out, up to ten"
)


class NonFiniteError(DeimError, FloatingPointError):
    """A loss or a gradient is infinite or not a number."""


class NonFiniteGuard:
    """Ends a run, or skips a step, before a loss or a gradient that is not finite spoils the weights.

    Args:
        model: without DistributedDataParallel around it.
        folder: where the batch of the last such step is written for ``deim replay``.
        allowed: how many steps of the run may be skipped; the next one ends it.
        about: what checkpoints say of the run, to be written with the batch; see :mod:`deim.checkpoint.provenance`.

    Attributes:
        skipped: how many were skipped so far.
    """

    def __init__(self, model: nn.Module, folder: str = "", allowed: int = 0, about: Mapping[str, Any] | None = None):
        self.model, self.folder, self.allowed, self.about = model, folder, allowed, about
        self.skipped = 0
        self._buffers: list[Tensor] = []

    def before_step(self) -> None:
        """Remember what a forward pass changes, where it may have to be undone: statistics of normalization."""
        if self.allowed:
            self._buffers = [buffer.clone() for buffer in self.model.buffers()]

    def skips(self, place: Mapping[str, Any], losses: Mapping[str, Tensor], norm: float, samples: list[dict]) -> bool:
        """Decide on a step with a number that is not finite in some process: True to leave it out.

        Args:
            place: ``iteration``, and what else is needed to do the step again.
            losses: scalars on the CPU.
            norm: that of all gradients.
            samples: the batch of this process.

        Raises:
            NonFiniteError: no further step may be left out.
        """
        told = _told(place["iteration"], losses, norm, samples)
        if self.skipped >= self.allowed:
            raise NonFiniteError(f"{told}\n{ADVICE}" + (self._write(place, losses, samples) if self.folder else ""))
        self.skipped += 1
        logger.warning(f"{told}\nThis step is left out: {self.skipped} of the {self.allowed} that may be")
        with torch.no_grad():
            for buffer, former in zip(self.model.buffers(), self._buffers, strict=True):
                buffer.copy_(former)
        return True

    def _write(self, place: Mapping[str, Any], losses: Mapping[str, Tensor], samples: list[dict]) -> str:
        path = os.path.join(self.folder, f"non_finite_{place['iteration']:07d}_rank{comm.get_rank()}.pth")
        content = {
            **place,
            "losses": {name: float(value) for name, value in losses.items()},
            "samples": [_plain(sample) for sample in samples],
            "model": self.model.state_dict(),
            "deim": dict(self.about or {}),
        }
        with replacing(path) as file:
            torch.save(content, file)
        return f"\nTo see where it comes from: python -m deim replay {path}"


def _told(iteration: int, losses: Mapping[str, Tensor], norm: float, samples: Sequence[dict]) -> str:
    wrong = {name: float(value) for name, value in losses.items() if not math.isfinite(value)}
    finite = {name: round(float(value), 4) for name, value in losses.items() if name not in wrong}
    images = ", ".join(str(s.get("image_id", s.get("file_name", "?"))) for s in samples)
    where = f", in process {comm.get_rank()} of {comm.get_world_size()}" if comm.get_world_size() > 1 else ""
    lines = [
        f"a number is not finite at iteration {iteration}{where}: norm of the gradients {norm:g}, "
        + (", ".join(f"{name} {value:g}" for name, value in wrong.items()) or "all losses finite"),
        f"images: {images}",
        f"other losses: {finite}" if finite else "no other losses",
    ]
    return "\n".join(lines)


def _plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What of a sample can be kept as plain data: numbers, texts and tensors, those of its objects among them."""
    kept: dict[str, Any] = {n: value for n, value in sample.items() if isinstance(value, (str, int, float, Tensor))}
    kept["image"] = sample["image"].clone()  # of its own, where it was a view of the whole batch
    instances = sample.get("instances")
    if isinstance(instances, Instances):
        kept["instances"] = {
            name: getattr(value, "tensor", value).clone() for name, value in instances.get_fields().items()
        }
        kept["size"] = list(instances.image_size)
    return kept


def restored(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample of a written batch as a model takes it."""
    whole = {name: value for name, value in sample.items() if name not in ("instances", "size")}
    if "instances" in sample:
        fields = {name: Boxes(v) if name.endswith("boxes") else v for name, v in sample["instances"].items()}
        whole["instances"] = Instances(tuple(sample["size"]), **fields)
    return whole
