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

__all__ = ["PUBLISHED", "Published", "available", "get", "get_checkpoint_url", "get_config", "get_config_file", "list"]


def list() -> dict[str, tuple[str, ...]]:
    """Names of all recipes -> the weights that :func:`get` finds for them, such as ``("coco", "objects365")``."""
    return {name: tuple(one.data for one in published.of_recipe(name)) for name in available()}


def get_config(config_path: str, trained: bool = False) -> Any:
    """Load a recipe's config.

    Args:
        config_path: name of the recipe, such as ``"dfine/dfine_s_coco"``.
        trained: set ``train.init_checkpoint`` to what is published for the recipe, preferably on COCO.

    Raises:
        ConfigError: if there is no such recipe.
        CheckpointError: if ``trained`` and nothing is published for it.
    """
    cfg = LazyConfig.load(get_config_file(config_path))
    if trained:
        cfg.train.init_checkpoint = _preferred(config_path).data
    return cfg


def get_checkpoint_url(config_path: str) -> str:
    """Return the address of the weights that are published for a recipe, preferably on COCO.

    Raises:
        CheckpointError: if nothing is published.
    """
    return _preferred(config_path).address


def _preferred(recipe: str) -> Published:
    names = [one.data for one in published.of_recipe(recipe)]
    return published.find(recipe, "coco" if "coco" in names or not names else names[0])


def get(
    config_path: str,
    trained: bool = False,
    device: str | None = None,
    *,
    weights: str | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
) -> nn.Module:
    """Build a recipe's model, in eval mode. The first three arguments are those of detectron2's ``model_zoo.get``.

    Args:
        config_path: name of the recipe, such as ``"dfine/dfine_s_coco"``.
        trained: load what is published for the recipe, preferably on COCO.
        device: such as "cuda". None leaves the model on the CPU.
        weights: "coco", "objects365" or "objects365_coco" for what is published, downloaded once into
            :func:`deim.config.published.cache_folder`; or a file or folder of any known layout. None gives random weights,
            unless ``trained``. A file in the form for deployment gives a model that cannot be trained.
        num_classes: other than the recipe's.
        classes: names of the model's classes. Those that the weights know keep them, others start anew.

    Raises:
        TypeError: if ``trained`` is not a bool.
        ConfigError: if there is no such recipe.
        CheckpointError: if the weights cannot be had, or do not fit.
    """
    if not isinstance(trained, bool):
        raise TypeError(f"trained is True or False, got {trained!r}; weights are given by name: weights={trained!r}")
    cfg = get_config(config_path)
    if num_classes is not None or classes is not None:
        cfg.model.num_classes = len(classes) if classes is not None else num_classes
    model = build(cfg, "model")
    if trained and weights is None:
        weights = _preferred(config_path).data
    if weights is not None:
        path = published.path_of(config_path, weights)
        if classes is None:
            load_for_inference(model, path)
        else:
            load_weights(model, path, allow_other_classes=True, classes=classes)
    return model.eval() if device is None else model.eval().to(device)
