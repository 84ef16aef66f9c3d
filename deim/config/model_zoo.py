"""Recipes by name, wherever deim is installed, and the weights that are published for them."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import LazyConfig
from torch import nn

from deim.checkpoint.loading import load_for_inference, load_weights
from deim.config import published
from deim.config.building import build
from deim.config.files import available, get_config_file
from deim.config.published import PUBLISHED, Published

__all__ = ["PUBLISHED", "Published", "available", "get", "get_config", "get_config_file", "list"]


def list() -> dict[str, tuple[str, ...]]:
    """Names of all recipes -> the weights that :func:`get` finds for them, such as ``("coco", "objects365")``."""
    return {name: tuple(one.data for one in published.of_recipe(name)) for name in available()}


def get_config(name: str) -> Any:
    """A recipe's config.

    Raises:
        ConfigError: there is none of that name.
    """
    return LazyConfig.load(get_config_file(name))


def get(
    name: str, weights: str | None = None, num_classes: int | None = None, classes: Sequence[str] | None = None
) -> nn.Module:
    """A recipe's model, in eval mode.

    Args:
        weights: "coco", "objects365" or "objects365_coco" for what is published, downloaded once into
            :func:`deim.config.published.cache_folder`; or a file or folder of any known layout; None for random
            weights. A file in the form for deployment gives a model that cannot be trained.
        num_classes: other than the recipe's.
        classes: names of the model's classes. Those that the weights know keep them, others start anew.

    Raises:
        ConfigError: there is no such recipe.
        CheckpointError: the weights cannot be had, or do not fit.
    """
    cfg = get_config(name)
    if num_classes is not None or classes is not None:
        cfg.model.num_classes = len(classes) if classes is not None else num_classes
    model = build(cfg, "model")
    if weights is not None:
        path = published.path_of(name, weights)
        if classes is None:
            load_for_inference(model, path)
        else:
            load_weights(model, path, allow_other_classes=True, classes=classes)
    return model.eval()
