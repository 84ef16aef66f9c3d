"""Keys of backbones in old-style (yacs) configs, derived from the arguments of the backbones."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec

Builder = TypeVar("Builder", bound=Callable)

# Node of ``cfg.MODEL`` -> {argument: default}, of all imported backbones.
_NODES: dict[str, dict[str, Any]] = {}


def yacs_keys(node: str, **defaults: Any) -> Callable[[Builder], Builder]:
    """Return a decorator that lets old-style configs build a backbone from the keys of ``cfg.MODEL.<node>``.

    Each argument of the backbone has a key: its name in upper case. ``freeze_at`` is the exception. Its key is
    detectron2's ``cfg.MODEL.BACKBONE.FREEZE_AT``. If the default of an argument is None, 0 in the config stands for
    None.

    The decorator accepts a function, or a class whose ``__init__`` is ``@configurable``.

    Args:
        node: name of the node, in upper case.
        defaults: defaults of the keys, for arguments that have no default in the signature or a different one.

    Raises:
        ValueError: if an argument has no default.
    """

    def decorate(builder: Builder) -> Builder:
        parameters = inspect.signature(builder).parameters
        arguments = {name: parameter.default for name, parameter in parameters.items()} | defaults
        missing = [name for name, default in arguments.items() if default is inspect.Parameter.empty]
        if missing:
            raise ValueError(f"cfg.MODEL.{node} of {builder.__name__} needs defaults for {', '.join(missing)}")
        _NODES[node] = arguments

        def from_config(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
            """Return the arguments from an old-style config."""
            return {name: _argument(cfg, node, name, default) for name, default in arguments.items()}

        def class_from_config(cls: type, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
            """Return the arguments from an old-style config; see :func:`deim.config.yacs.add_deim_config`."""
            return from_config(cfg)

        if isinstance(builder, type):
            setattr(builder, "from_config", classmethod(class_from_config))  # noqa: B010 - mypy knows no such attribute
            return builder
        return configurable(from_config=from_config)(builder)

    return decorate


def yacs_nodes() -> dict[str, CfgNode]:
    """Return the nodes of all imported backbones with their default values, by name in ``cfg.MODEL``."""
    return {
        node: CfgNode({name.upper(): _plain(default) for name, default in arguments.items() if name != "freeze_at"})
        for node, arguments in _NODES.items()
    }


def _argument(cfg: CfgNode, node: str, name: str, default: Any) -> Any:
    if name == "freeze_at":
        return cfg.MODEL.BACKBONE.FREEZE_AT
    value = cfg.MODEL[node][name.upper()]
    return value or None if default is None else value


def _plain(default: Any) -> Any:
    if default is None:
        return 0
    return list(default) if isinstance(default, tuple) else default
