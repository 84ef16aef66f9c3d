"""Building what a config describes, with faults that name the node at fault."""

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

# Arguments of backbones that say where weights come from -> the value for random weights.
WEIGHTS_ARGUMENTS = {"weights": "", "pretrained": False, "checkpoint_path": ""}

# What constructors, torch's among them, raise for arguments that make no sense.
_REFUSALS = (TypeError, ValueError, AssertionError, RuntimeError)


def build(cfg: Any, key: str, pretrained_backbone: bool = False) -> Any:
    """Instantiate the node ``key`` of a config, such as ``"model"``, as detectron2's ``instantiate`` does.

    Args:
        pretrained_backbone: load the weights that ``model.backbone`` names, and download them if needed. Only a training
            run that starts from nothing needs them: by default the backbone is random.

    Raises:
        ConfigError: a constructor refuses its arguments, or an interpolation leads nowhere; names the node.
        CheckpointError: the weights of the backbone cannot be downloaded or do not fit.
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
        unknown = re.match(r"Dataset '(.*?)' is not registered", str(error.args[0]) if error.args else "")
        if unknown is None:
            raise
        raise ConfigError(
            f"{key} of the config names the data set {unknown[1]!r}, which is not registered with detectron2: register it in "
            "the config file, so that every command does it"
        ) from error
    except _REFUSALS as error:
        raise ConfigError(f"{key} of the config cannot be built: {error} ({origin(error)}){_taken(node)}") from error


def _taken(node: Any) -> str:
    """Which arguments of a node stand elsewhere in the config, where the mistake may be."""
    written = {name: node._get_node(name)._value() for name in node if OmegaConf.is_interpolation(node, name)}
    return "; it takes " + ", ".join(f"{k} from {v}" for k, v in written.items()) if written else ""


def accepts(target: Any, argument: str) -> bool:
    """Return whether what a node calls has an argument of this name.

    Args:
        target: ``_target_`` of the node: a callable, or its name.
    """
    function = locate(target) if isinstance(target, str) else target
    return callable(function) and argument in inspect.signature(function).parameters


def origin(error: BaseException) -> str:
    """Where an exception was raised, for a message that stands without its traceback."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(last.filename)
    return f"{type(error).__name__} in {path.parent.name}/{path.name}, line {last.lineno}"
