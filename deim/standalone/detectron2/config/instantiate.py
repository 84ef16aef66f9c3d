"""From a description of a call to its result."""

import collections.abc as abc
import dataclasses
import logging

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["instantiate"]


def instantiate(cfg):
    """Build, inside out, every object that ``cfg`` describes by ``_target_`` and arguments.

    Anything that is no description is returned as it is.
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
    target = locate(target) if isinstance(target, str) else target
    if not callable(target):
        raise AssertionError(f"_target_ {target} does not define a callable object")
    try:
        return target(**arguments)
    except TypeError:
        logging.getLogger(__name__).error(f"Error when instantiating {getattr(target, '__qualname__', target)}!")
        raise
