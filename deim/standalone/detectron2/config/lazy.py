"""Lazy configs: Python files that describe calls to be made later."""

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

# Prefix of the package name of config files. Relative imports in such packages are resolved by file location.
_CONFIG_PACKAGE = "detectron2._cfg_loader"


class LazyCall:
    """A deferred call. ``LazyCall(f)(a=1)`` is a config for which ``instantiate`` calls ``f(a=1)``."""

    def __init__(self, target):
        if not (callable(target) or isinstance(target, (str, abc.Mapping))):
            raise TypeError(f"The target of LazyCall must be callable, a dotted path or a config, got {target!r}")
        self._target = target

    def __call__(self, **kwargs):
        target = _convert_target_to_string(self._target) if is_dataclass(self._target) else self._target
        return DictConfig({**kwargs, "_target_": target}, flags={"allow_objects": True})


def _as_config(value):
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


def _run_config(filename: str, imported: bool = False) -> dict:
    """Execute a config file.

    Args:
        filename: path of the file.
        imported: whether another config imports the file. Only then ``__name__`` of the file is set, as in detectron2.

    Returns:
        The namespace of the file.

    Raises:
        SyntaxError: if the file is not valid Python.
    """
    with PathManager.open(filename) as f:
        source = f.read()
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename} has syntax error!") from error
    package = f"{_CONFIG_PACKAGE}{uuid.uuid4().hex[:4]}.{os.path.basename(filename)}"
    namespace = {"__file__": filename, "__package__": package} | ({"__name__": package} if imported else {})
    exec(compile(source, filename, "exec"), namespace)
    return namespace


def _relative_file(importer: str, name: str, level: int) -> str:
    """Return the path of the config file for a relative import. Raises ImportError if it does not exist."""
    folder = os.path.dirname(importer)
    for _ in range(level - 1):
        folder = os.path.dirname(folder)
    path = os.path.join(folder, *name.split("."))
    if name and PathManager.isfile(path + ".py"):
        return path + ".py"
    if not name or PathManager.isdir(path):
        raise ImportError(
            f"{importer} imports the folder {path}: within a config file, a relative import can only "
            "import other config files"
        )
    raise ImportError(f"Cannot import name {name} from {importer}: {path}.py does not exist.")


@contextmanager
def _config_imports():
    """Resolve relative imports of config files by file location within the context, without caching modules."""
    original = builtins.__import__

    def config_import(name, globals=None, locals=None, fromlist=(), level=0):
        package = (globals or {}).get("__package__") or ""
        if level == 0 or not package.startswith(_CONFIG_PACKAGE):
            return original(name, globals, locals, fromlist=fromlist, level=level)
        path = _relative_file(globals["__file__"], name, level)
        module = ModuleType(os.path.basename(path))
        module.__dict__.update(_run_config(path, imported=True))
        for attribute in fromlist or ():
            if attribute not in module.__dict__:
                raise KeyError(f"{path} does not define {attribute!r}, which {globals['__file__']} imports")
            module.__dict__[attribute] = _as_config(module.__dict__[attribute])
        return module

    builtins.__import__ = config_import
    try:
        yield
    finally:
        builtins.__import__ = original


class LazyConfig:
    """Functions to load, save and override configs."""

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None):
        """Load a config by its path relative to the calling file. See :meth:`load`."""
        caller = inspect.stack()[1].frame.f_code.co_filename
        if caller == "<string>":
            raise AssertionError("load_rel must be called from a file")
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None):
        """Load a ``.py`` or ``.yaml`` config.

        Args:
            filename: path of the file.
            keys: the name or names to return. By default, all configs of a Python file are returned in one DictConfig,
                and a YAML file is returned completely.

        Raises:
            KeyError: if the file, or a file that it imports from, does not define a name.
            TypeError: if ``filename`` is not a string.
            ValueError: if the file is neither a Python nor a YAML file.
        """
        if not isinstance(filename, str):
            raise TypeError(f"The filename of a config must be a string, got {filename!r}")
        if os.path.splitext(filename)[1] not in (".py", ".yaml", ".yml"):
            raise ValueError(f"Config file {filename} has to be a python or yaml file.")
        is_python = filename.endswith(".py")
        loaded = _load_python(filename) if is_python else _load_yaml(filename)
        if isinstance(keys, str):
            return _as_config(loaded[keys])
        if keys is not None:
            return tuple(_as_config(loaded[key]) for key in keys)
        if not is_python:
            return loaded
        configs = {
            name: _as_config(value)
            for name, value in loaded.items()
            if isinstance(value, (DictConfig, ListConfig, dict)) and not name.startswith("_")
        }
        return DictConfig(configs, flags={"allow_objects": True})

    @staticmethod
    def save(cfg, filename: str):
        """Write a config as YAML.

        A config that cannot be written as YAML, or cannot be loaded again, is pickled to ``<filename>.pkl``.

        Raises:
            MissingMandatoryValue: if a value is ``"???"``.
        """
        logger = logging.getLogger(__name__)
        try:
            cfg = deepcopy(cfg)
        except Exception:
            logger.debug("The config contains objects that cannot be copied")
        else:
            _name_targets(cfg)
        try:
            plain = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
            text = yaml.dump(plain, default_flow_style=None, allow_unicode=True, width=9999)
            with PathManager.open(filename, "w") as f:
                f.write(text)
        except Exception:
            logger.exception("Unable to serialize the config to yaml. Error:")
            _pickle(cfg, filename + ".pkl")
            return
        try:
            yaml.unsafe_load(text)
        except Exception:
            logger.warning(f"{filename} is readable for humans, but contains objects that cannot be loaded from YAML.")
            _pickle(cfg, filename + ".pkl")

    @staticmethod
    def apply_overrides(cfg, overrides: list[str]):
        """Set values in place.

        Args:
            cfg: the config.
            overrides: strings ``key.sub=value`` in hydra's grammar.

        Returns:
            ``cfg``.

        Raises:
            KeyError: if a key leads through a value that is not a config.
            NotImplementedError: if an override deletes a key.
        """
        # Import hydra only if needed: programs without overrides start faster.
        from hydra.core.override_parser.overrides_parser import OverridesParser

        for override in OverridesParser.create().parse_overrides(overrides):
            if override.is_delete():
                raise NotImplementedError("deletion is not yet a supported override")
            _update(cfg, override.key_or_group, override.value())
        return cfg


def _load_python(filename: str) -> dict:
    with _config_imports():
        return _run_config(filename)


def _load_yaml(filename: str):
    with PathManager.open(filename) as f:
        return OmegaConf.create(yaml.unsafe_load(f), flags={"allow_objects": True})


def _update(cfg, key: str, value) -> None:
    keys = key.split(".")
    for depth in range(1, len(keys)):
        prefix = ".".join(keys[:depth])
        node = OmegaConf.select(cfg, prefix, default=None)
        if node is None:
            break
        if not OmegaConf.is_config(node):
            raise KeyError(f"Trying to update key {key}, but {prefix} is not a config, but has type {type(node)}.")
    OmegaConf.update(cfg, key, value, merge=True)


def _pickle(cfg, filename: str) -> None:
    logger = logging.getLogger(__name__)
    try:
        with PathManager.open(filename, "wb") as f:
            cloudpickle.dump(cfg, f)
    except Exception:
        logger.exception(f"The config cannot be pickled at {filename} either; it is not saved.")
    else:
        logger.warning(f"Config is saved using cloudpickle at {filename}.")


def _name_targets(node) -> None:
    """Replace all callables in ``_target_`` by their dotted paths, recursively and in place."""
    if isinstance(node, DictConfig):
        if "_target_" in node and callable(node._target_):
            with suppress(AttributeError):  # callables without a name are kept
                node._target_ = _convert_target_to_string(node._target_)
        for value in node.values():
            _name_targets(value)
    elif isinstance(node, ListConfig):
        for value in node:
            _name_targets(value)
