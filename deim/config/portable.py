"""What a checkpoint keeps of the config that it was trained by, as plain data: enough to predict from a path alone."""

import logging
import pydoc
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from deim.config.building import WEIGHTS_ARGUMENTS
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

# Parts of a config that predicting needs, by the names that they are kept under.
KEPT = {"model": "model", "mapper": "dataloader.test.mapper"}
# What a checkpoint may have called: modules, from these packages, and what lies here, which makes no more than them.
_PACKAGES = ("deim", "detectron2", "detrex", "projects", "torch")
_HARMLESS = (
    *("deim.modeling.", "deim.layers.", "deim.data.mapper", "deim.data.augmentation"),
    *("detectron2.modeling.", "detectron2.layers.", "detectron2.data.transforms.", "detectron2.structures."),
    *("detrex.modeling.", "detrex.layers."),
)


def to_portable(cfg: Any) -> dict[str, Any] | None:
    """The parts of a config that predicting needs, with every reference resolved; None if they hold what is no data."""
    kept = {}
    for name, key in KEPT.items():
        node = OmegaConf.select(cfg, key)
        if node is None:
            return None
        kept[name] = _plain(OmegaConf.to_container(node, resolve=True))
    backbone = kept["model"].get("backbone")
    if isinstance(backbone, dict):
        # The checkpoint brings the weights: whoever builds the model needs no others.
        backbone.update({argument: empty for argument, empty in WEIGHTS_ARGUMENTS.items() if argument in backbone})
    foreign = _first_foreign(kept)
    if foreign is not None:
        logger.info(f"Checkpoints will not hold the config, since {foreign} is no data: keep the config with them")
        return None
    return kept


def from_portable(kept: Mapping[str, Any], path: str) -> DictConfig:
    """The config that :func:`to_portable` has kept: ``model``, and ``dataloader.test.mapper``.

    Args:
        path: of the checkpoint, for messages.

    Raises:
        CheckpointError: it would call what is no part of a detector: a file of unknown origin shall not run code.
    """
    for target in _targets(dict(kept)):
        if not _is_harmless(target):
            raise CheckpointError(
                f"the config in {path} calls {target}, which is no part of a detector that is known here. "
                "If you trust it, give the config file yourself and the checkpoint as its weights"
            )
    cfg = DictConfig({}, flags={"allow_objects": True})
    for name, key in KEPT.items():
        OmegaConf.update(cfg, key, kept[name])
    return cfg


def _plain(node: Any) -> Any:
    """With the names of what is called in place of it."""
    if isinstance(node, dict):
        return {
            key: f"{value.__module__}.{value.__qualname__}" if key == "_target_" and callable(value) else _plain(value)
            for key, value in node.items()
        }
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node


def _first_foreign(node: Any) -> str | None:
    if isinstance(node, dict | list):
        values = node.values() if isinstance(node, dict) else node
        return next((found for value in values if (found := _first_foreign(value)) is not None), None)
    return None if node is None or isinstance(node, str | bool | int | float) else repr(node)


def _targets(node: Any) -> list[str]:
    """Everything that a config calls."""
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    return [target for value in node for target in _targets(value)] if isinstance(node, list) else []


def _is_harmless(target: str) -> bool:
    if target.split(".")[0] not in _PACKAGES:
        return False
    found = pydoc.locate(target)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return True
    # by where it is defined: a name may lead through a module to whatever that imports
    return callable(found) and str(getattr(found, "__module__", "")).startswith(_HARMLESS)
