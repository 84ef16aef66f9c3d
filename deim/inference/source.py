"""Which model is meant by the path of a checkpoint, or by the name of a recipe and weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from deim.checkpoint import classes as class_lists
from deim.checkpoint.formats import recognize
from deim.checkpoint.loading import load_stored_for_inference, stored_classes, stored_num_classes
from deim.checkpoint.reading import Stored, read_weights
from deim.config import build, load_config, published
from deim.config.files import available
from deim.config.portable import from_portable
from deim.conversion.identification import identify
from deim.errors import ConfigError


@dataclass
class TrainedModel:
    """A model that can predict.

    Attributes:
        model: in eval mode, with its weights.
        config: with at least ``model`` and ``dataloader.test.mapper``.
        class_names: of its scores.
    """

    model: nn.Module
    config: Any
    class_names: list[str]


def load_trained(source: str, weights: str | None = None, device: str = "cpu") -> TrainedModel:
    """
    Args:
        source: a checkpoint of any known layout, whose recipe is told by what it says or recognized by its tensors;
            or a config file or the name of a recipe, with ``weights``.
        weights: a checkpoint; or "coco", "objects365" or "objects365_coco" for what is published.
        device: of detrex's models, which stay where they are built; ours are on the CPU.

    Raises:
        DeimError: there is no such file or recipe, or they do not fit each other.
    """
    if source.endswith(".py") or source in available() or weights is not None:
        config, stored = _of_recipe(source, weights)
    else:
        stored = read_weights(source)
        config = _config_of(stored)
    if "device" in config.model:
        config.model.device = device
    model = build(config, "model")
    load_stored_for_inference(model, stored)
    return TrainedModel(model.eval(), config, _names(stored, model, config.model.get("num_classes")))


def _of_recipe(source: str, weights: str | None) -> tuple[Any, Stored]:
    config = load_config(source)
    if weights is None:
        raise ConfigError(
            f"{source} is a recipe, which has no weights: give a checkpoint as well, or 'coco' for published ones"
        )
    stored = read_weights(published.path_of(source, weights))
    config.model.num_classes = stored_num_classes(stored, recognize(stored.weights)) or config.model.num_classes
    return config, stored


def _config_of(stored: Stored) -> Any:
    kept = stored.metadata.get("config")
    return from_portable(kept, stored.path) if kept else identify(stored).config


def _names(stored: Stored, model: nn.Module, count: int | None) -> list[str]:
    names: Sequence[str] = stored_classes(stored) or class_lists.known_classes(model.state_dict()) or ()
    if not names and count is None:
        raise ConfigError(f"{stored.path} does not say which classes its scores are of")
    return [name or f"class {index}" for index, name in enumerate(names or [""] * (count or 0))]
