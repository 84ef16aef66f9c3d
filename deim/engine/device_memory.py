"""What to do when a device runs out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deim.errors import DeimError


class DeviceMemoryError(DeimError):
    """A device has too little memory for a training step."""


@contextmanager
def explained_memory(cfg: Any, trainer: Any) -> Iterator[None]:
    """Turn running out of device memory into an error that names the sizes that were tried and the keys that help.

    Args:
        trainer: has the batch of the present step as ``samples``.

    Raises:
        DeviceMemoryError: in place of ``torch.OutOfMemoryError``.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(_explain(cfg, trainer.samples, str(error))) from error


def _explain(cfg: Any, samples: list[dict], message: str) -> str:
    shapes = sorted({tuple(sample["image"].shape[-2:]) for sample in samples}, key=lambda shape: -shape[0] * shape[1])
    objects = sum(len(sample["instances"]) for sample in samples if "instances" in sample)
    sizes = ", ".join(f"{height} x {width}" for height, width in shapes[:3]) + (", ..." if len(shapes) > 3 else "")
    tried = f"{len(samples)} images of {sizes} with {objects} objects on this process" if samples else "no batch yet"
    keys = [f"dataloader.train.total_batch_size, now {cfg.dataloader.train.total_batch_size}: fewer images in a step"]
    if not cfg.train.amp.enabled:
        keys.append("train.amp.enabled=True: mixed precision")
    if not cfg.train.get("activation_checkpointing"):
        keys.append("train.activation_checkpointing=[backbone,encoder,decoder]: activations are computed again")
    keys.append(
        f"train.accumulation_steps, now {cfg.train.get('accumulation_steps', 1)}: each batch in more parts, "
        "with the same result but for batch normalization"
    )
    steps = "\n".join(f"  {number}. {key}" for number, key in enumerate(keys, 1))
    return f"the device ran out of memory: {tried}.\nWhat helps, in this order:\n{steps}\n{message.splitlines()[0]}"
