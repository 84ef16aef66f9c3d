"""Old-style (yacs) configs: the node class, its defaults and classes that are built from it."""

import functools
import inspect

from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as _CfgNode
from omegaconf import DictConfig


class CfgNode(_CfgNode):
    """A yacs node whose files are opened by the path manager."""

    @classmethod
    def _open_cfg(cls, filename):
        return PathManager.open(filename, "r")


def get_cfg() -> CfgNode:
    """A fresh config with the keys that every model reads."""
    cfg = CfgNode({"VERSION": 2, "OUTPUT_DIR": "./output", "SEED": -1})
    cfg.MODEL = CfgNode({"DEVICE": "cuda", "META_ARCHITECTURE": "GeneralizedRCNN", "WEIGHTS": ""})
    cfg.MODEL.PIXEL_MEAN = [103.530, 116.280, 123.675]
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    cfg.INPUT = CfgNode({"FORMAT": "BGR"})
    cfg.MODEL.BACKBONE = CfgNode({"NAME": "build_resnet_backbone", "FREEZE_AT": 2})
    return cfg


def configurable(init_func=None, *, from_config=None):
    """Let a class (or a function) be called with a config in place of its arguments.

    ``@configurable`` on ``__init__`` uses the class's ``from_config(cfg, ...)``, which returns the
    keyword arguments; on a function it is written ``@configurable(from_config=...)``. Extra
    keyword arguments of the call override those from the config.
    """
    if init_func is not None:

        @functools.wraps(init_func)
        def init(self, *args, **kwargs):
            if _has_config(args, kwargs):
                init_func(self, **_arguments(type(self).from_config, args, kwargs))
            else:
                init_func(self, *args, **kwargs)

        return init
    if from_config is None:
        return configurable

    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            if _has_config(args, kwargs):
                return function(**_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        call.from_config = from_config
        return call

    return decorate


def _has_config(args, kwargs) -> bool:
    kinds = (_CfgNode, DictConfig)
    return (bool(args) and isinstance(args[0], kinds)) or isinstance(kwargs.get("cfg"), kinds)


def _arguments(from_config, args, kwargs) -> dict:
    accepted = inspect.signature(from_config).parameters
    if any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        return from_config(*args, **kwargs)
    passed = {k: v for k, v in kwargs.items() if k in accepted}
    overrides = {k: v for k, v in kwargs.items() if k not in accepted}
    return {**from_config(*args, **passed), **overrides}
