"""Freezing of modules."""

import logging
from collections.abc import Sequence

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")


def freeze_modules(model: nn.Module, names: Sequence[str]) -> int:
    """Freeze modules, in place: their parameters and the statistics of their batch normalization.

    Batch normalization becomes detectron2's ``FrozenBatchNorm2d``. The names of the weights do not change, so that
    checkpoints of a run with frozen modules fit models without frozen modules, and the reverse.

    Args:
        names: names of modules, such as "backbone", "encoder" or "decoder.layers.0".

    Returns:
        number of values in the parameters that were trainable before.

    Raises:
        ConfigError: if a module does not exist, or no parameter of the model remains trainable.
    """
    before = _count_trainable(model)
    for name in names:
        module = _find_module(model, name)
        module.requires_grad_(False)
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(module)
        if frozen is not module:
            model.set_submodule(name, frozen)
    remaining = _count_trainable(model)
    if not remaining:
        raise ConfigError(f"train.freeze={list(names)} freezes all parameters of the model")
    if names:
        logger.info(f"Froze {', '.join(names)}: {before - remaining:,} parameters; {remaining:,} remain trainable")
    return before - remaining


def _count_trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _find_module(model: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its dotted name.

    Raises:
        ConfigError: if it does not exist; lists the modules that do.
    """
    module, path = model, ""
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            raise ConfigError(
                f"train.freeze: the model has no module {name!r}; "
                f"{f'{path} has' if path else 'it has'} {', '.join(children) or 'no modules'}"
            )
        module, path = children[part], f"{path}.{part}" if path else part
    return module
