"""Configs written in Python whose calls are made later."""

import ast
import builtins
import collections.abc as abc
import inspect
import logging
import os
import uuid
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import is_dataclass
from types import ModuleType

import cloudpickle
import yaml
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

__all__ = ["LazyCall", "LazyConfig"]

# Modules loaded as configs live in packages of this prefix, by which relative imports know them.
_CONFIG_PACKAGE = "detectron2._cfg_loader"


class LazyCall:
    """``LazyCall(f)(a=1)`` is a config node that says "call ``f`` with a=1"; see ``instantiate``."""

    def __init__(self, target):
        if not (callable(target) or isinstance(target, (str, abc.Mapping))):
            raise TypeError(f"target of LazyCall must be a callable or defines a callable! Got {target}")
        self._target = target

    def __call__(self, **kwargs):
        target = _convert_target_to_string(self._target) if is_dataclass(self._target) else self._target
        return DictConfig({**kwargs, "_target_": target}, flags={"allow_objects": True})


def _as_config(value):
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


def _run_config(filename: str) -> dict:
    """The namespace that running the config file leaves.

    Raises:
        SyntaxError: naming the file.
    """
    with PathManager.open(filename) as f:
        source = f.read()
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename} has syntax error!") from error
    package = f"{_CONFIG_PACKAGE}{uuid.uuid4().hex[:4]}.{os.path.basename(filename)}"
    namespace = {"__file__": filename, "__package__": package, "__name__": package}
    exec(compile(source, filename, "exec"), namespace)
    return namespace


def _relative_file(importer: str, name: str, level: int) -> str:
    folder = os.path.dirname(importer)
    for _ in range(level - 1):
        folder = os.path.dirname(folder)
    path = os.path.join(folder, *name.split("."))
    if not name or PathManager.isdir(path):
        raise ImportError(
            f"{importer} imports the folder {path}: within a config file, a relative import can only "
            "import other config files"
        )
    if not PathManager.isfile(path + ".py"):
        raise ImportError(f"Cannot import name {name} from {importer}: {path}.py does not exist.")
    return path + ".py"


@contextmanager
def _config_imports():
    """Make relative imports inside config files go by file location, afresh each time."""
    original = builtins.__import__

    def config_import(name, globals=None, locals=None, fromlist=(), level=0):
        package = (globals or {}).get("__package__") or ""
        if level == 0 or not package.startswith(_CONFIG_PACKAGE):
            return original(name, globals, locals, fromlist=fromlist, level=level)
        path = _relative_file(globals["__file__"], name, level)
        module = ModuleType(os.path.basename(path))
        module.__dict__.update(_run_config(path))
        for wanted in fromlist or ():
            if wanted not in module.__dict__:
                raise ImportError(f"{path} defines no {wanted!r}, which {globals['__file__']} imports")
            module.__dict__[wanted] = _as_config(module.__dict__[wanted])
        return module

    builtins.__import__ = config_import
    try:
        yield
    finally:
        builtins.__import__ = original


class LazyConfig:
    """Load, save and override configs."""

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None):
        """:meth:`load` of a path relative to the calling file."""
        caller = inspect.stack()[1].frame.f_code.co_filename
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None):
        """Load a ``.py`` or ``.yaml`` config.

        Args:
            keys: the name or names to return; by default all that hold a config, in one.

        Raises:
            ValueError: the file is of another type.
        """
        if not filename.endswith((".py", ".yaml", ".yml")):
            raise ValueError(f"Config file {filename} has to be a python or yaml file.")
        if filename.endswith(".py"):
            with _config_imports():
                loaded = _run_config(filename)
        else:
            with PathManager.open(filename) as f:
                loaded = OmegaConf.create(yaml.unsafe_load(f), flags={"allow_objects": True})
        if isinstance(keys, str):
            return _as_config(loaded[keys])
        if keys is not None:
            return tuple(_as_config(loaded[key]) for key in keys)
        if isinstance(loaded, DictConfig):
            return loaded
        configs = {
            name: _as_config(value)
            for name, value in loaded.items()
            if isinstance(value, (DictConfig, ListConfig, dict)) and not name.startswith("_")
        }
        return DictConfig(configs, flags={"allow_objects": True})

    @staticmethod
    def save(cfg, filename: str):
        """Write ``cfg`` as YAML; what YAML cannot load again is pickled beside it."""
        logger = logging.getLogger(__name__)
        try:
            cfg = deepcopy(cfg)
        except Exception:
            logger.debug("The config holds objects that cannot be copied")
        _name_targets(cfg)
        try:
            plain = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
            text = yaml.dump(plain, default_flow_style=None, allow_unicode=True, width=9999)
            with PathManager.open(filename, "w") as f:
                f.write(text)
            yaml.unsafe_load(text)
        except Exception:
            with PathManager.open(filename + ".pkl", "wb") as f:
                cloudpickle.dump(cfg, f)
            logger.warning(f"The config cannot be written as YAML that loads again; pickled at {filename}.pkl")

    @staticmethod
    def apply_overrides(cfg, overrides: list[str]):
        """Set ``key.sub=value`` strings (hydra's grammar where hydra is installed) in place.

        Raises:
            KeyError: a key goes through something that is no config node.
        """
        for key, value in _parse_overrides(overrides):
            parts = key.split(".")
            for depth in range(1, len(parts)):
                prefix = ".".join(parts[:depth])
                node = OmegaConf.select(cfg, prefix, default=None)
                if node is None:
                    break
                if not OmegaConf.is_config(node):
                    raise KeyError(
                        f"Trying to update key {key}, but {prefix} is not a config, but has type {type(node)}."
                    )
            OmegaConf.update(cfg, key, value, merge=True)
        return cfg


def _name_targets(node) -> None:
    """Replace callables in ``_target_`` by their dotted paths, in the whole tree."""
    if isinstance(node, DictConfig):
        target = node.get("_target_", None)
        if callable(target):
            with suppress(AttributeError):  # a callable without a name stays an object
                node._target_ = _convert_target_to_string(target)
        for key in node:
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                _name_targets(node[key])
    elif isinstance(node, ListConfig):
        for item in node:
            _name_targets(item)


def _parse_overrides(overrides: list[str]) -> list[tuple[str, object]]:
    try:
        from hydra.core.override_parser.overrides_parser import OverridesParser
    except ImportError:
        return [(key, _literal(value)) for key, value in (text.split("=", 1) for text in overrides)]
    parsed = OverridesParser.create().parse_overrides(overrides)
    if any(override.is_delete() for override in parsed):
        raise NotImplementedError("deletion is not yet a supported override")
    return [(override.key_or_group, override.value()) for override in parsed]


def _literal(text: str):
    words = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
