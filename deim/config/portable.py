"""Model and mapper config stored in checkpoints as plain data, so that a checkpoint path suffices for inference."""

import logging
import pydoc
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from deim.config.building import WEIGHTS_ARGUMENTS
from deim.config.former_keys import replace_former_loss_keys
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

# Parts of a config that inference needs: name in the checkpoint -> key in the config.
PORTABLE_KEYS = {"model": "model", "mapper": "dataloader.test.mapper"}
# A checkpoint may call nn.Module classes of `_PACKAGES`, and callables defined in modules of `_ALLOWED_MODULES`.
_PACKAGES = ("deim", "detectron2", "detrex", "projects", "torch")
_ALLOWED_MODULES = (
    "deim.modeling.",
    "deim.layers.",
    "deim.data.mapper",
    "deim.data.augmentation",
    "detectron2.modeling.",
    "detectron2.layers.",
    "detectron2.data.transforms.",
    "detectron2.structures.",
    "detrex.modeling.",
    "detrex.layers.",
)


def to_portable(cfg: Any) -> dict[str, Any] | None:
    """Return the parts of a config that inference needs, with interpolations resolved.

    Returns:
        Plain data, or None if the parts contain an object that is not plain data.
    """
    parts = {}
    for name, key in PORTABLE_KEYS.items():
        node = OmegaConf.select(cfg, key)
        if node is None:
            return None
        parts[name] = _plain(OmegaConf.to_container(node, resolve=True, enum_to_str=True))
    parts = _without_pretrained(parts)
    if not all(map(_is_allowed, _targets(parts["model"].get("criterion") or {}))):
        # Reading rejects losses from other packages, which inference does not need.
        parts["model"]["criterion"] = None
    not_plain = _first_non_plain(parts)
    if not_plain is not None:
        logger.info(
            f"Checkpoints will not contain the config: {not_plain} is not plain data. Keep the config with them"
        )
        return None
    return parts


def from_portable(parts: Mapping[str, Any], path: str) -> DictConfig:
    """Return the config stored by :func:`to_portable`: ``model`` and ``dataloader.test.mapper``.

    Args:
        parts: plain data from :func:`to_portable`.
        path: path of the checkpoint, for messages.

    Raises:
        CheckpointError: if the config calls anything but known detector parts, since a file of unknown origin must not
            run code.
    """
    for target in _targets(dict(parts)):
        if not _is_allowed(target):
            raise CheckpointError(
                f"the config in {path} calls {target}, which is not a known part of a detector. "
                "If you trust the file, pass its config file, and the checkpoint as the weights"
            )
    if _has_interpolation(dict(parts)):  # which may read environment variables
        raise CheckpointError(
            f"the config in {path} contains an interpolation ('${{'), which configs in checkpoints lack"
        )
    parts = _without_pretrained(dict(parts))
    cfg = DictConfig({}, flags={"allow_objects": True})
    for name, key in PORTABLE_KEYS.items():
        OmegaConf.update(cfg, key, parts[name])
    replace_former_loss_keys(cfg.model.get("criterion"))
    return cfg


def _plain(node: Any) -> Any:
    """Replace the callables of ``_target_`` keys by their dotted names."""
    if isinstance(node, dict):
        return {
            key: f"{value.__module__}.{value.__qualname__}" if key == "_target_" and callable(value) else _plain(value)
            for key, value in node.items()
        }
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node


def _without_pretrained(node: Any) -> Any:
    """Remove paths and URLs of pretrained weights, which the checkpoint replaces."""
    if isinstance(node, dict):
        return {
            key: WEIGHTS_ARGUMENTS[key]
            if key in WEIGHTS_ARGUMENTS and isinstance(value, type(WEIGHTS_ARGUMENTS[key]))
            else _without_pretrained(value)
            for key, value in node.items()
        }
    return [_without_pretrained(value) for value in node] if isinstance(node, list) else node


def _has_interpolation(node: Any) -> bool:
    if isinstance(node, dict | list):
        return any(map(_has_interpolation, node.values() if isinstance(node, dict) else node))
    return isinstance(node, str) and "${" in node


def _first_non_plain(node: Any) -> str | None:
    """Return a description of the first value that is not plain data, or None if there is none."""
    if isinstance(node, dict | list):
        values = node.values() if isinstance(node, dict) else node
        return next((description for value in values if (description := _first_non_plain(value)) is not None), None)
    return None if node is None or isinstance(node, str | bool | int | float) else repr(node)


def _targets(node: Any) -> list[str]:
    """Return the targets of all nodes of a config."""
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    return [target for value in node for target in _targets(value)] if isinstance(node, list) else []


def _is_allowed(target: str) -> bool:
    if target.split(".")[0] not in _PACKAGES:
        return False
    located = pydoc.locate(target)
    if isinstance(located, type) and issubclass(located, nn.Module):
        return True
    # Check the defining module: a dotted name may reach any object that a module imports.
    return callable(located) and str(getattr(located, "__module__", "")).startswith(_ALLOWED_MODULES)
