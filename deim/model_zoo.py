"""Recipes by name, wherever deim is installed."""

from typing import Any

from detectron2.config import instantiate
from torch import nn

from deim.config import projects_root
from deim.errors import ConfigError


def available() -> list[str]:
    """Names of all recipes, such as ``"deim_dfine/deim_dfine_s_coco"``."""
    return sorted(f"{path.parents[1].name}/{path.stem}" for path in projects_root().glob("*/configs/*.py"))


def get_config_file(name: str) -> str:
    """Path of a recipe.

    Raises:
        ConfigError: there is none of that name.
    """
    project, _, recipe = name.partition("/")
    path = projects_root() / project / "configs" / f"{recipe}.py"
    if not path.is_file():
        raise ConfigError(f"there is no recipe {name!r}; there are: {', '.join(available())}")
    return str(path)


def get_config(name: str) -> Any:
    """A recipe's config.

    Raises:
        ConfigError: there is none of that name.
    """
    from detectron2.config import LazyConfig

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
    from deim.engine.checkpoint import load_weights

    config = get_config(name).model
    if num_classes is not None:
        config.num_classes = num_classes
    model = instantiate(config)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()
