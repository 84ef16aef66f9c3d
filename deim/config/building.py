"""Instantiation of config nodes, with errors that name the node."""

import inspect
import re
import traceback
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deim.errors import ConfigError

# Backbone arguments that select pretrained weights -> their value for random weights.
WEIGHTS_ARGUMENTS = {"weights": "", "pretrained": False, "checkpoint_path": ""}

# Exceptions that constructors, including torch's, raise for invalid arguments.
_CONSTRUCTOR_ERRORS = (TypeError, ValueError, AssertionError, RuntimeError)


def selected_backbone_weights(cfg: Any) -> str | bool | None:
    """Return the argument of ``model.backbone`` that selects pretrained weights; None for random weights."""
    node = OmegaConf.select(cfg, "model.backbone", default=None)
    if not OmegaConf.is_dict(node):
        return None
    return next((node[name] for name, empty in WEIGHTS_ARGUMENTS.items() if node.get(name, empty) != empty), None)


def build(cfg: Any, key: str, pretrained_backbone: bool = False) -> Any:
    """Instantiate the node ``key`` of a config, such as ``"model"``, as detectron2's ``instantiate`` does.

    Args:
        cfg: a config.
        key: dotted key of the node.
        pretrained_backbone: load the weights that ``model.backbone`` names, downloading them if needed. Only training
            from scratch needs them; by default the backbone has random weights.

    Raises:
        ConfigError: if a constructor rejects its arguments or an interpolation cannot be resolved; names the node.
        CheckpointError: if the backbone weights cannot be downloaded or do not fit.
    """
    return _build(OmegaConf.select(cfg, key), key, pretrained_backbone)


def _build(node: Any, key: str, pretrained_backbone: bool) -> Any:
    if OmegaConf.is_list(node):
        return [_build(value, f"{key}.{index}", pretrained_backbone) for index, value in enumerate(node)]
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        return node
    try:
        arguments = dict(node.items())
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key} of the config: {error}") from error
    if key.endswith("backbone") and not pretrained_backbone:
        arguments.update({name: value for name, value in WEIGHTS_ARGUMENTS.items() if name in arguments})
    arguments = {name: _build(value, f"{key}.{name}", pretrained_backbone) for name, value in arguments.items()}
    try:
        return instantiate(arguments)
    except KeyError as error:
        dataset_match = re.match(r"Dataset '(.*?)' is not registered", str(error.args[0]) if error.args else "")
        if dataset_match is None:
            raise
        raise ConfigError(
            f"{key} of the config names the dataset {dataset_match[1]!r}, which is not registered with detectron2: "
            "register it in the config file, so that every command registers it"
        ) from error
    except _CONSTRUCTOR_ERRORS as error:
        raise ConfigError(
            f"{key} of the config cannot be built: {error} ({error_origin(error)}){_interpolated_arguments(node)}"
        ) from error


def _interpolated_arguments(node: Any) -> str:
    """Return a list of the interpolated arguments of a node, since the mistake may be in the keys they refer to."""
    interpolations = {name: node._get_node(name)._value() for name in node if OmegaConf.is_interpolation(node, name)}
    return (
        "; interpolated arguments: " + ", ".join(f"{k} from {v}" for k, v in interpolations.items())
        if interpolations
        else ""
    )


def accepts(target: Any, argument: str) -> bool:
    """Return True if the target of a node has an argument of this name.

    Args:
        target: ``_target_`` of the node, a callable or its dotted name.
        argument: name of the argument.
    """
    function = locate(target) if isinstance(target, str) else target
    return callable(function) and argument in inspect.signature(function).parameters


def error_origin(error: BaseException) -> str:
    """Return the type and source line of an exception, for messages printed without a traceback."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(last.filename)
    return f"{type(error).__name__} in {path.parent.name}/{path.name}, line {last.lineno}"
