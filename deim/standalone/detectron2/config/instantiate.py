"""Instantiation of the objects described by a config."""

import collections.abc as abc
import dataclasses
import logging

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["instantiate"]


def instantiate(cfg):
    """Call ``_target_`` of a config with its arguments, which are instantiated first, recursively.

    Args:
        cfg: a mapping with ``_target_``, or a list of such mappings.

    Returns:
        The return value of the target, or ``cfg`` itself if it has no ``_target_``. For a list, the list of these. For
        a structured config, an object of its dataclass.

    Raises:
        AssertionError: if ``_target_`` is not callable.
        ImportError: if ``_target_`` cannot be imported.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(cfg._metadata.object_type):
        return OmegaConf.to_object(cfg)
    if not (isinstance(cfg, abc.Mapping) and "_target_" in cfg):
        return cfg

    arguments = {name: instantiate(value) for name, value in cfg.items()}
    target = instantiate(arguments.pop("_target_"))
    name = target if isinstance(target, str) else _full_name(target)
    target = locate(target) if isinstance(target, str) else target
    if not callable(target):
        raise AssertionError(f"_target_ {target} does not define a callable object")
    try:
        return target(**arguments)
    except TypeError:
        logging.getLogger(__name__).error(f"Error when instantiating {name}!")
        raise


def _full_name(target) -> str:
    try:
        return f"{target.__module__}.{target.__qualname__}"
    except AttributeError:  # e.g. an object with __call__
        return str(target)
