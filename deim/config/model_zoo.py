"""Recipes by name, wherever deim is installed."""

from typing import Any

from detectron2.config import LazyConfig
from torch import nn

from deim.checkpoint.loading import load_weights
from deim.config.building import build
from deim.config.files import available, get_config_file

__all__ = ["available", "get", "get_config", "get_config_file"]


def get_config(name: str) -> Any:
    """A recipe's config.

    Raises:
        ConfigError: there is none of that name.
    """
    return LazyConfig.load(get_config_file(name))


def get(name: str, weights: str | None = None, num_classes: int | None = None) -> nn.Module:
    """A recipe's model, in eval mode.

    Args:
        weights: a checkpoint to load; None for random weights.
        num_classes: other than the recipe's.

    Raises:
        ConfigError: there is no such recipe.
        CheckpointError: the checkpoint does not fit.
    """
    cfg = get_config(name)
    if num_classes is not None:
        cfg.model.num_classes = num_classes
    model = build(cfg, "model")
    if weights is not None:
        load_weights(model, weights)
    return model.eval()
