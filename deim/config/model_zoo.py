"""Recipes by name, and the weights published for them."""

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
    """Return {recipe name: names of its published weights for :func:`get`, such as ``("coco", "objects365")``}."""
    return {name: tuple(weights.data for weights in published.published_for(name)) for name in available()}


def get_config(config_path: str, trained: bool = False) -> Any:
    """Load a recipe's config.

    Args:
        config_path: name of the recipe, such as ``"dfine/dfine_s_coco"``.
        trained: set ``train.init_checkpoint`` to the weights published for the recipe, preferably those trained on
            COCO.

    Raises:
        ConfigError: if the recipe does not exist.
        CheckpointError: if ``trained`` is True and no weights are published for the recipe.
    """
    cfg = LazyConfig.load(get_config_file(config_path))
    if trained:
        cfg.train.init_checkpoint = _preferred(config_path).data
    return cfg


def get_checkpoint_url(config_path: str) -> str:
    """Return the URL of the weights published for a recipe, preferably those trained on COCO.

    Raises:
        CheckpointError: if no weights are published for the recipe.
    """
    return _preferred(config_path).url


def _preferred(recipe: str) -> Published:
    names = [weights.data for weights in published.published_for(recipe)]
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
    """Build a recipe's model, in eval mode. The first three arguments match detectron2's ``model_zoo.get``.

    Args:
        config_path: name of the recipe, such as ``"dfine/dfine_s_coco"``.
        trained: load the weights published for the recipe, preferably those trained on COCO. Has no effect if
            ``weights`` is given.
        device: such as "cuda". None keeps the model on the CPU.
        weights: "coco", "objects365" or "objects365_coco" for published weights, downloaded once into
            :func:`deim.config.published.cache_folder`; or a file or folder in any supported checkpoint layout. None
            gives random weights unless ``trained`` is True. A file in deployment form gives a model that cannot be
            trained.
        num_classes: number of classes, if it differs from the recipe's. Has no effect if ``classes`` is given.
        classes: names of the model's classes. Classes that the checkpoint also has keep their weights; the others are
            newly initialized.

    Raises:
        TypeError: if ``trained`` is not a bool.
        ConfigError: if the recipe does not exist.
        CheckpointError: if the weights cannot be found or downloaded, or do not fit.
    """
    if not isinstance(trained, bool):
        raise TypeError(f"trained must be True or False, got {trained!r}; to select weights, pass weights={trained!r}")
    cfg = get_config(config_path)
    if num_classes is not None or classes is not None:
        cfg.model.num_classes = len(classes) if classes is not None else num_classes
    model = build(cfg, "model")
    if trained and weights is None:
        weights = _preferred(config_path).data
    if weights is not None:
        path = published.weights_path(config_path, weights)
        if classes is None:
            load_for_inference(model, path)
        else:
            load_weights(model, path, allow_other_classes=True, classes=classes)
    return model.eval() if device is None else model.eval().to(device)
