"""Loading of LazyConfigs and command-line overrides."""

import functools
import importlib
import pickle
from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deim.config.batch_size import AUTO, BATCH_SIZE_KEY
from deim.config.files import available, get_config_file, nearest, recipe_name, shipped_folder
from deim.config.former_keys import current_key, former_criterion_key, rename_former_keys
from deim.config.switches import switch
from deim.config.test_sets import split_test_sets
from deim.config.user_data import detect_dataset, with_data
from deim.data.datasets.dataset_format import DiscoveredDataset
from deim.errors import ConfigError
from deim.structures import PredictionGroup

_REFERENCE_KEY = "train.reference_batch_size"

# Saved configs are YAML, which has strings but no enumerations.
yaml.add_representer(PredictionGroup, lambda dumper, group: dumper.represent_str(group.value))


def get_config(path: str) -> Any:
    """Return the common config at ``path``, such as ``"common/train.py"``, relative to the configs shipped with deim.

    Raises:
        ConfigError: if the file does not exist.
    """
    folder = shipped_folder("configs")
    file = folder / path
    if not file.is_file():
        raise ConfigError(f"config {path} does not exist in {folder}")
    return pickle.loads(_pickled_config(str(file), file.stat().st_mtime_ns))


@functools.cache
def _pickled_config(path: str, modified: int) -> bytes:
    """Return the config in a file. A recipe loads the same files many times, and unpickling takes 5 % of loading.

    Args:
        modified: time of the last change of the file, so that changed files are loaded again.
    """
    return pickle.dumps(LazyConfig.load(path))


def get_detrex_config(path: str) -> Any:
    """Return a config of a detrex project, such as ``"dino/configs/dino-resnet/dino_r50_4scale_12ep.py"``.

    Raises:
        ConfigError: if no checkout of detrex is on the Python path, or the checkout has no such file.
    """
    try:
        folders = [Path(folder) for folder in importlib.import_module("projects").__path__]
    except ImportError:
        folders = []
    files = [folder / path for folder in folders if (folder / path).is_file()]
    if not files:
        raise ConfigError(
            f"this config imports projects/{path} of detrex, which was not found: "
            "add checkouts of detrex and of detectron2 to PYTHONPATH"
        )
    return LazyConfig.load(str(files[0]))


def load_config(
    path: str,
    overrides: Sequence[str] = (),
    data: str | None = None,
    images: str | None = None,
    switches: Mapping[str, bool] | None = None,
) -> Any:
    """Load a config file and apply command-line overrides.

    Keys that the file does not set under ``train`` get their values from ``common/train.py``, so that detrex recipes
    run as well.

    Args:
        path: a file, or the name of a recipe in :mod:`deim.config.model_zoo`.
        overrides: items ``key.sub=value``. The key must exist, so that misspelled keys are reported; ``+key.sub=value``
            adds a new key.
        data: path of a dataset that replaces the recipe's; see :func:`deim.config.user_data.with_data`.
        images: folder of the images of ``data``, if they are stored elsewhere.
        switches: {name: on or off} of components; see :func:`deim.config.switch`. They are switched first, so that
            overrides can change the keys of a component that is turned on.

    Raises:
        ConfigError: if the file does not exist, cannot be loaded or is not a complete recipe, or an override or a
            switch is invalid. Other errors in the code of a Python file, such as NameError, are passed on.
        DatasetError: if there is no dataset at ``data``.
    """
    path = find_config(path)
    try:
        cfg = LazyConfig.load(path)
    except (ImportError, SyntaxError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"config file {path} cannot be loaded: {error}") from error
    if not cfg:
        raise ConfigError(f"config file {path} is empty")
    missing = [key for key in ("train", "dataloader", "model", "optimizer") if key not in cfg]
    if missing:
        raise ConfigError(f"config file {path} is not a complete recipe: it does not define {', '.join(missing)}")
    # Recipes written for detrex lack the settings that exist only in this project.
    cfg.train = OmegaConf.merge(get_config("common/train.py").train, cfg.train)
    split_test_sets(cfg)
    rename_former_keys(cfg)
    cfg.train.recipe = cfg.train.recipe or recipe_name(path)
    switch(cfg, **(switches or {}))
    if data is not None:
        with_data(cfg, data, images)
    recipe_batch_size = OmegaConf.select(cfg, BATCH_SIZE_KEY, default=None)
    apply_overrides(cfg, overrides)
    if OmegaConf.select(cfg, BATCH_SIZE_KEY, default=None) == AUTO and isinstance(recipe_batch_size, int):
        _scale_from(cfg, recipe_batch_size, overrides)
    _keep_overridden(cfg, overrides)
    if OmegaConf.select(cfg, "dataloader.train.seed", default=0) is None:
        cfg.dataloader.train.seed = "${train.seed}"
    return cfg


def _scale_from(cfg: Any, batch_size: int, overrides: Sequence[str]) -> None:
    """Scale learning rates from the batch size of the recipe, unless the config has another reference; in place."""
    if cfg.train.reference_batch_size is None and _REFERENCE_KEY not in override_keys(overrides):
        cfg.train.reference_batch_size = batch_size


def _keep_overridden(cfg: Any, overrides: Sequence[str]) -> None:
    """Exclude overridden keys from scaling, unless the overrides state the batch size that their values hold for; in place."""
    keys = override_keys(overrides)
    if cfg.train.reference_batch_size is not None and _REFERENCE_KEY not in keys:
        scaled = ("optimizer", "schedule", "train.model_ema", BATCH_SIZE_KEY)
        cfg.train.unscaled_keys = [*cfg.train.unscaled_keys, *(key for key in keys if key.startswith(scaled))]


def override_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys of items ``key=value`` or ``+key=value``."""
    return [override.lstrip("+").partition("=")[0] for override in overrides]


def data_config(overrides: Sequence[str], data: str, images: str | None = None) -> tuple[Any, DiscoveredDataset]:
    """Return a config that contains only the dataset at a path.

    Args:
        overrides: see :func:`load_config`.
        data: path of the dataset; see :func:`deim.config.user_data.detect_dataset`.
        images: folder of its images, if they are stored elsewhere.

    Returns:
        A config with ``dataloader.train.dataset`` and ``dataloader.test.dataset``, and the description of the dataset.

    Raises:
        ConfigError: if an override is invalid.
        DatasetError: if there is no dataset at ``data``.
    """
    dataset, (train, test) = detect_dataset(data, images, None)
    cfg = OmegaConf.create(
        {"dataloader": {"train": {"dataset": train}, "test": {"dataset": test}}}, flags={"allow_objects": True}
    )
    apply_overrides(cfg, overrides)
    return cfg, dataset


def apply_overrides(cfg: Any, overrides: Sequence[str]) -> None:
    """Apply command-line overrides to a config in place; see :func:`load_config`.

    Raises:
        ConfigError: if an override is invalid.
    """
    for override in overrides:
        _apply(cfg, override)


def find_config(path: str) -> str:
    """Return the config file for a path or the name of a recipe.

    Raises:
        ConfigError: if neither a file nor a recipe has this name.
    """
    if not path:
        raise ConfigError(
            "no config given: pass a config file or recipe name with --config-file (deim zoo lists all recipes)"
        )
    if Path(path).is_file():
        return path
    if path in available():
        return get_config_file(path)
    raise ConfigError(
        f"config file {path} does not exist, and no recipe has this name; the closest names are {nearest(path)} "
        "(deim zoo lists all)"
    )


def _apply(cfg: Any, override: str) -> None:
    text = override.lstrip("+")
    key, equals, value = text.partition("=")
    key = current_key(cfg, key)
    text = f"{key}={value}"
    if not equals:
        raise ConfigError(f"{override!r} is not a valid override; write key=value")
    must_exist = not override.startswith("+")
    with former_criterion_key(cfg, key):
        if must_exist:
            _require_key(cfg, key)
        former_value = _value(cfg, key) if must_exist else None
        try:
            LazyConfig.apply_overrides(cfg, [text])
        except Exception as error:  # hydra and omegaconf raise many types for malformed overrides
            raise ConfigError(f"override {override!r} cannot be applied: {error}") from error
        if (key, _value(cfg, key)) != (BATCH_SIZE_KEY, AUTO):
            _require_kind(override, former_value, _value(cfg, key))


def _value(cfg: Any, key: str) -> Any:
    """Return the value at ``key``, or None if its interpolation cannot be resolved."""
    try:
        return OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return None


def _kind(value: Any) -> str | None:
    """Return the kind that an override of ``value`` must have, or None if every kind is allowed."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, Number):
        return "a number"
    if OmegaConf.is_list(value):
        return "a list"
    return None


def _require_kind(override: str, former_value: Any, value: Any) -> None:
    expected_kind = _kind(former_value)
    if (
        expected_kind is not None
        and value is not None
        and not OmegaConf.is_dict(value)
        and _kind(value) != expected_kind
    ):
        raise ConfigError(f"override {override!r} must be {expected_kind}, such as {former_value}")


def _require_key(cfg: Any, key: str) -> None:
    """Raise ConfigError if ``key`` is not in the config, listing the keys that exist."""
    node: Any = cfg
    parents: list[str] = []
    for part in key.split("."):
        keys = (
            list(node)
            if OmegaConf.is_dict(node)
            else list(map(str, range(len(node))))
            if OmegaConf.is_list(node)
            else []
        )
        if part not in keys:
            parent = ".".join(parents) or "the config"
            raise ConfigError(
                f"unknown key {key!r}: {parent} has {', '.join(k for k in keys if k != '_target_') or 'no keys'} "
                f"(to add a key, write +{key}=...)"
            )
        parents.append(part)
        try:
            node = node[part] if OmegaConf.is_dict(node) else node[int(part)]
        except OmegaConfBaseException:  # an interpolation that cannot be resolved, which an override may replace
            node = None
