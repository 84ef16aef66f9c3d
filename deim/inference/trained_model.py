"""Loading a trained model from a checkpoint, or from a recipe and weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from deim.checkpoint import classes as class_lists
from deim.checkpoint.formats import recognize
from deim.checkpoint.loading import load_stored_for_inference, stored_classes, stored_num_classes
from deim.checkpoint.reading import StoredWeights, read_weights
from deim.config import build, load_config, published
from deim.config.files import available
from deim.config.portable import from_portable
from deim.conversion.identification import identify
from deim.errors import CheckpointError, ConfigError
from deim.structures.skeleton import Skeleton


@dataclass
class TrainedModel:
    """Model ready for prediction.

    Attributes:
        model: model in eval mode, with its weights.
        config: config with at least ``model`` and ``dataloader.test.mapper``.
        class_names: name of each class, in the order of the model's scores.
        skeleton: names and connections of the keypoints; None if the model predicts no keypoints.
    """

    model: nn.Module
    config: Any
    class_names: list[str]
    skeleton: Skeleton | None = None


def load_trained(source: str, weights: str | None = None, device: str = "cpu") -> TrainedModel:
    """Load a trained model.

    Args:
        source: a checkpoint in any supported format, a config file, or the name of a recipe. The recipe of a checkpoint
            is read from the metadata of the checkpoint, or identified from its tensors.
        weights: path or URL of a checkpoint, or "coco", "objects365" or "objects365_coco" for published weights.
            Required if ``source`` is a config file or recipe.
        device: device on which detrex models are built; they cannot be moved later. Other models are built on the CPU.

    Raises:
        DeimError: if a file or recipe does not exist, or they do not match.
    """
    if source.endswith(".py") or source in available() or weights is not None:
        config, stored = _load_recipe(source, weights)
    else:
        stored = read_weights(source)
        config = _stored_config(stored)
    if "device" in config.model:
        config.model.device = device
    model = build(config, "model")
    load_stored_for_inference(model, stored)
    class_names = _class_names(stored, model, config.model.get("num_classes"))
    return TrainedModel(model.eval(), config, class_names, _skeleton(stored, model))


def _load_recipe(source: str, weights: str | None) -> tuple[Any, StoredWeights]:
    config = load_config(source)
    if weights is None:
        raise ConfigError(
            f"{source} is a recipe, which has no weights: also give a checkpoint, or 'coco', "
            "'objects365' or 'objects365_coco' for published weights"
        )
    stored = read_weights(published.weights_path(source, weights))
    config.model.num_classes = stored_num_classes(stored, recognize(stored.weights)) or config.model.num_classes
    return config, stored


def _stored_config(stored: StoredWeights) -> Any:
    config = stored.metadata.get("config")
    return from_portable(config, stored.path) if config else identify(stored).config


def _class_names(stored: StoredWeights, model: nn.Module, count: int | None) -> list[str]:
    layout = recognize(stored.weights)
    other_classes = None if layout is None else layout.classes
    names: Sequence[str] = stored_classes(stored) or class_lists.infer_classes(model.state_dict(), other_classes) or ()
    if names and count is not None and len(names) != count:
        raise CheckpointError(f"{stored.path} names {len(names)} classes, but its model has {count}")
    if not names and count is None:
        raise ConfigError(
            f"{stored.path} contains neither class names nor a number of classes, and its config has no model.num_classes"
        )
    return [name or f"class {index}" for index, name in enumerate(names or [""] * (count or 0))]


def _skeleton(stored: StoredWeights, model: nn.Module) -> Skeleton | None:
    """Return the skeleton in the metadata, or a default one; None if the model predicts no keypoints."""
    if "keypoints" not in getattr(model, "predicted_fields", ()):
        return None
    content = stored.metadata.get("keypoints")
    decoder: Any = model.decoder
    return Skeleton.from_dict(content) if content else Skeleton.for_count(decoder.num_keypoints)
