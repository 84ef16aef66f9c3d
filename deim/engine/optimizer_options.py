"""Options of an optimizer that differ between a run and its continuation."""

import logging
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

logger = logging.getLogger("detectron2.deim")

# Options with other types, such as tensors, belong to the state of an optimizer.
_OPTION_TYPES = (bool, int, float, str, tuple, type(None))


def optimizer_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of each parameter group of a newly built optimizer, such as ``lr`` and ``weight_decay``."""
    return [
        {name: value for name, value in group.items() if name != "params" and isinstance(value, _OPTION_TYPES)}
        for group in optimizer.param_groups
    ]


def apply_changed_options(
    optimizer: Optimizer, stored: Sequence[dict[str, Any]] | None, current: Sequence[dict[str, Any]]
) -> None:
    """Set the options that the config has changed since a checkpoint was written; in place.

    The optimizer has loaded the checkpoint, and with it the former options. Only changed options are set, since the
    groups of some optimizers also contain values that change during training.

    Args:
        optimizer: the optimizer.
        stored: options of each parameter group in the run that wrote the checkpoint; None for checkpoints of earlier
            versions, whose learning rates and weight decays are compared.
        current: options of each parameter group in this run, before the checkpoint was loaded.
    """
    if stored is None:
        stored = [
            {"lr": group.get("initial_lr", group["lr"]), "weight_decay": group.get("weight_decay")}
            for group in optimizer.param_groups
        ]
    changes: dict[str, None] = {}
    for group, before, now in zip(optimizer.param_groups, stored, current, strict=True):
        changed = {name: now[name] for name, value in before.items() if name in now and now[name] != value}
        group.update(changed)
        if "lr" in changed:
            group["initial_lr"] = changed["lr"]  # schedulers derive the learning rates from it
        changes |= {f"{name} {before[name]} -> {value}": None for name, value in changed.items()}
    if changes:
        logger.info(f"The config has changed options of the optimizer since the checkpoint: {', '.join(changes)}")
