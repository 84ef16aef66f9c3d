"""Yacs configs: the node class, its defaults, and the ``configurable`` decorator."""

import functools
import inspect

from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as _CfgNode
from omegaconf import DictConfig


class CfgNode(_CfgNode):
    """A yacs node that opens files with the path manager."""

    @classmethod
    def _open_cfg(cls, filename):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a YAML file into this config.

        Args:
            cfg_filename: path of the file.
            allow_unsafe: whether the file may contain Python objects.

        Raises:
            AssertionError: if the file does not exist, or has a newer config version.
            KeyError: if the file has a key that this config lacks.
            NotImplementedError: if the file has an older config version.
        """
        if not PathManager.isfile(cfg_filename):
            raise AssertionError(f"Config file '{cfg_filename}' does not exist!")
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = loaded.get("VERSION", self.VERSION)
        if version > self.VERSION:
            raise AssertionError(f"Cannot merge a v{version} config into a v{self.VERSION} config.")
        if version < self.VERSION:
            raise NotImplementedError(
                f"{cfg_filename} is a v{version} config. The bundled subset of detectron2 does not upgrade it; "
                "install detectron2."
            )
        self.merge_from_other_cfg(loaded)


def get_cfg() -> CfgNode:
    """Return a new config with the keys of detectron2 that every model reads."""
    cfg = CfgNode({"VERSION": 2, "OUTPUT_DIR": "./output", "SEED": -1})
    cfg.MODEL = CfgNode({"DEVICE": "cuda", "META_ARCHITECTURE": "GeneralizedRCNN", "WEIGHTS": ""})
    cfg.MODEL.PIXEL_MEAN = [103.530, 116.280, 123.675]
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    cfg.INPUT = CfgNode({"FORMAT": "BGR"})
    cfg.MODEL.BACKBONE = CfgNode({"NAME": "build_resnet_backbone", "FREEZE_AT": 2})
    return cfg


def configurable(init_func=None, *, from_config=None):
    """Decorate ``__init__`` or a function so that it also accepts a config instead of its arguments.

    On ``__init__``, write ``@configurable``. The class then needs a classmethod ``from_config(cfg, ...)`` that returns
    the keyword arguments. On a function, write ``@configurable(from_config=...)``. Keyword arguments of a call that
    ``from_config`` does not accept override those that it returns.

    Raises:
        AssertionError: if ``@configurable`` decorates anything but ``__init__``, or ``from_config`` is not a function.
    """
    if init_func is not None:
        if not inspect.isfunction(init_func) or from_config is not None or init_func.__name__ != "__init__":
            raise AssertionError("@configurable without arguments is for __init__; functions need from_config=...")
        return _configurable_init(init_func)
    if from_config is None:
        return configurable
    if not inspect.isfunction(from_config):
        raise AssertionError(f"from_config of @configurable must be a function, got {from_config!r}")

    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            if _has_config(args, kwargs):
                return function(**_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        call.from_config = from_config
        return call

    return decorate


def _configurable_init(init_func):
    @functools.wraps(init_func)
    def init(self, *args, **kwargs):
        cls = type(self)
        if not hasattr(cls, "from_config"):
            raise AttributeError(f"{cls.__qualname__} with @configurable must have a 'from_config' classmethod.")
        if not inspect.ismethod(cls.from_config):
            raise TypeError(f"'from_config' of {cls.__qualname__} with @configurable must be a classmethod.")
        if _has_config(args, kwargs):
            init_func(self, **_arguments(cls.from_config, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return init


def _has_config(args, kwargs) -> bool:
    config_types = (_CfgNode, DictConfig)
    return (bool(args) and isinstance(args[0], config_types)) or isinstance(kwargs.get("cfg"), config_types)


def _arguments(from_config, args, kwargs) -> dict:
    """Return the keyword arguments from ``from_config``, and those of the call that ``from_config`` does not accept."""
    accepted = inspect.signature(from_config).parameters
    if next(iter(accepted), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as the first argument!")
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in accepted.values()):
        return from_config(*args, **kwargs)
    config_arguments = {k: v for k, v in kwargs.items() if k in accepted}
    overrides = {k: v for k, v in kwargs.items() if k not in accepted}
    return {**from_config(*args, **config_arguments), **overrides}
