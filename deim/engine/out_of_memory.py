"""Error message for running out of device memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deim.errors import DeimError


class DeviceMemoryError(DeimError):
    """Raised when a device does not have enough memory for a training step."""


@contextmanager
def explain_out_of_memory(cfg: Any, trainer: Any) -> Iterator[None]:
    """Replace out-of-memory errors by one that states the batch and the config keys that reduce memory.

    Args:
        trainer: provides the current batch as ``samples``.

    Raises:
        DeviceMemoryError: instead of ``torch.OutOfMemoryError``.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(_message(cfg, trainer.samples, str(error))) from error


def _message(cfg: Any, samples: list[dict], message: str) -> str:
    shapes = sorted({tuple(sample["image"].shape[-2:]) for sample in samples}, key=lambda shape: -shape[0] * shape[1])
    objects = sum(len(sample["instances"]) for sample in samples if "instances" in sample)
    sizes = ", ".join(f"{height} x {width}" for height, width in shapes[:3]) + (", ..." if len(shapes) > 3 else "")
    step = f"{len(samples)} images of {sizes} with {objects} objects on this rank" if samples else "no batch yet"
    batch_size = cfg.dataloader.train.get("total_batch_size", "unknown")
    keys = [f"reduce dataloader.train.total_batch_size (now {batch_size})"]
    if not cfg.train.amp.enabled:
        keys.append("train.amp.enabled=True for mixed precision")
    if cfg.train.get("cuda_graphs"):
        keys.append("train.cuda_graphs=False, because graphs keep their memory reserved between steps")
    if not cfg.train.get("activation_checkpointing") and not cfg.train.get("compile"):  # they cannot be combined
        keys.append("train.activation_checkpointing=[backbone,encoder,decoder] to recompute activations")
    keys.append(
        f"increase train.accumulation_steps (now {cfg.train.get('accumulation_steps', 1)}); losses and "
        "batch normalization then use the object counts and the statistics of parts of the batch"
    )
    steps = "\n".join(f"  {number}. {key}" for number, key in enumerate(keys, 1))
    return f"the device ran out of memory: {step}.\nRemedies, in this order:\n{steps}\n{message.splitlines()[0]}"
