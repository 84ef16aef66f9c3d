"""Identification of the recipe that weights belong to."""

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from deim.checkpoint import classes as class_names
from deim.checkpoint.formats import FORMATS, Format
from deim.checkpoint.formats.format import with_batch_counters
from deim.checkpoint.loading import (
    has_training_weights,
    match_deployment_form,
    mismatch,
    stored_classes,
    stored_num_classes,
    to_native_layout,
)
from deim.checkpoint.reading import StoredWeights
from deim.config import build, load_config
from deim.config.files import available
from deim.config.portable import from_portable
from deim.errors import CheckpointError, ConfigError

# Config keys that are ignored when recipes are compared. The number of classes comes from the file. The other keys
# affect only training or the number of detections.
_IGNORED_KEYS = (
    "criterion",
    "num_classes",
    "num_detections",
    "denoising",
    "dropout",
    "drop_path_rate",
    "freeze_at",
    "freeze_norm",
    "weights",
    "num_one_to_many",
)


@dataclass
class IdentifiedCheckpoint:
    """An identified checkpoint.

    Attributes:
        stored: content of the file.
        source_format: format of the file; None for the format of this package.
        recipe: name of the recipe that describes the model.
        config: config of that recipe, with the file's number of classes.
        model: model on the meta device, in training form.
        weights: weights under native names.
        classes: class names; None if unknown.
        equivalent_recipes: recipes that differ from ``recipe`` only in training.
        form: "training", or "deployment" if the file has only the weights for inference.
    """

    stored: StoredWeights
    source_format: Format | None
    recipe: str
    config: Any
    model: nn.Module
    weights: dict[str, Tensor]
    classes: Sequence[str] | None
    equivalent_recipes: list[str]
    form: str = "training"


@dataclass
class _Fit:
    """A model on the meta device, and the weights of the file under its native names."""

    model: nn.Module
    weights: dict[str, Tensor]
    form: str
    problem: str | None


@dataclass
class _Candidate:
    recipe: str
    config: Any
    fit: _Fit
    has_same_num_classes: bool  # the file has as many classes as the recipe

    @property
    def behavior(self) -> str:
        """Key that is equal for models with equal predictions from equal weights."""
        return str(_inference_config(OmegaConf.to_container(self.config.model, resolve=True)))


def identify(stored: StoredWeights, source: str = "auto", recipe: str | None = None) -> IdentifiedCheckpoint:
    """Identify the format, recipe and classes of a file.

    Args:
        stored: result of :func:`deim.checkpoint.reading.read_weights`.
        source: name of the format; "auto" to detect it.
        recipe: name from :mod:`deim.config.model_zoo`, or a config file; None to detect it.

    Raises:
        ConfigError: if the recipe does not exist.
        CheckpointError: if no recipe fits, or several recipes with different predictions fit. The message lists the
            mismatches or the recipes.
    """
    source_format = format_of(stored, source)
    recorded_recipe = stored.metadata.get("recipe")
    names = (
        [recipe]
        if recipe
        else [recorded_recipe]
        if recorded_recipe in available()
        else _candidate_recipes(source_format, source)
    )
    if source_format is not None and not names:
        raise CheckpointError(
            f"{stored.path} has the format of {source_format.title}, for which there is no recipe; give the config of "
            "its model with --recipe"
        )
    count = stored_num_classes(stored, source_format)
    candidates = _candidates(stored, names, count)
    fitting = [candidate for candidate in candidates if candidate.fit.problem is None]
    if not fitting:
        nearest = min(candidates, key=lambda candidate: (candidate.fit.problem or "").count("\n"))
        raise CheckpointError(
            f"{stored.path} does not fit any of {len(names)} recipes. Closest: {nearest.recipe}\n{nearest.fit.problem}"
        )
    best = _best_candidate(stored, fitting, source_format)
    equivalent_recipes = [
        candidate.recipe for candidate in fitting if candidate is not best and candidate.behavior == best.behavior
    ]
    classes = stored_classes(stored)
    if classes is None and source_format is not None:
        classes = class_names.infer_classes(best.fit.weights, source_format.classes)
    if classes is not None and len(classes) != count:
        classes = None
    return IdentifiedCheckpoint(
        stored,
        source_format,
        best.recipe,
        best.config,
        best.fit.model,
        best.fit.weights,
        classes,
        equivalent_recipes,
        best.fit.form,
    )


def format_of(stored: StoredWeights, source: str = "auto") -> Format | None:
    """Return the format of a file; None for the format of this package.

    Raises:
        CheckpointError: if the file does not have the format ``source``, or has an unknown format.
    """
    names = list(stored.weights)
    recognized = [layout for layout in FORMATS if layout.recognizes(names)]
    if source not in ("auto", "native"):
        recognized = [layout for layout in recognized if layout.name == source]
        if not recognized:
            raise CheckpointError(f"{stored.path} does not have the format {source!r}")
    if recognized and source != "native":
        return recognized[0]
    if not any(name.startswith(("decoder.refinement.", "decoder.queries.", "decoder.score_heads.")) for name in names):
        raise CheckpointError(
            f"{stored.path} has an unknown format (its tensors have names such as {', '.join(names[:3])}); known "
            f"formats are {', '.join(sorted({layout.name for layout in FORMATS}))}, and that of this package"
        )
    return None


def _candidate_recipes(source_format: Format | None, source: str) -> list[str]:
    """Return the names of the recipes whose models this format can store."""
    systems = (
        source_format.systems
        if source_format is not None
        else sorted({s for layout in FORMATS for s in layout.systems})
    )
    if source == "dfine":
        systems = ("dfine",)
    elif source == "deim":
        systems = [system for system in systems if system.startswith("deim")]
    return [name for name in available() if name.partition("/")[0] in systems]


def _candidates(stored: StoredWeights, recipes: Sequence[str], count: int | None) -> list[_Candidate]:
    """Compare the file with the model of each recipe; recipes with equal models are compared once."""
    fits: dict[str, _Fit] = {}
    candidates = []
    for recipe in recipes:
        config = load_config(recipe)
        stored_config = stored.metadata.get("config")
        if stored_config and recipe == stored.metadata.get("recipe"):
            _use_config_of_run(config, from_portable(stored_config, stored.path))
        recipe_classes = config.model.num_classes
        config.model.num_classes = count or recipe_classes
        content: Any = OmegaConf.to_container(config.model, resolve=True)
        key = str({name: value for name, value in content.items() if name != "criterion"})
        if key not in fits:
            fits[key] = _fit(stored, _build(config))
        candidates.append(_Candidate(recipe, config, fits[key], recipe_classes == config.model.num_classes))
    return candidates


def _use_config_of_run(config: Any, run_config: Any) -> None:
    """Replace the parts of a recipe that a run may have overridden: the model, and the size of its images; in place."""
    config.model = run_config.model
    config.dataloader.test.mapper = run_config.dataloader.test.mapper
    steps = run_config.dataloader.test.mapper.get("augmentations", ())
    shape = next((step.shape for step in steps if "shape" in step), None)
    if shape is not None and "image_size" in config.dataloader:
        config.dataloader.image_size = [shape, shape] if isinstance(shape, int) else list(shape)


def _fit(stored: StoredWeights, model: nn.Module) -> _Fit:
    try:
        weights = to_native_layout(stored, model, quiet=True)
    except CheckpointError as error:
        return _Fit(model, {}, "training", str(error))
    form, compared_weights, compared_model = "training", weights, model
    if not has_training_weights(weights, model):
        form, compared_model = "deployment", copy.deepcopy(model)
        compared_weights = match_deployment_form(compared_model, weights)
    return _Fit(model, weights, form, mismatch(stored.path, compared_model.state_dict(), compared_weights))


def _build(config: Any) -> nn.Module:
    """Build a recipe's model, without allocating its parameters if possible."""
    try:
        with torch.device("meta"):
            return build(config, "model")
    except ConfigError:  # detectron2's Swin Transformer reads tensor values during construction
        return build(config, "model")


def _best_candidate(
    stored: StoredWeights, candidates: Sequence[_Candidate], source_format: Format | None
) -> _Candidate:
    """Return the candidate that agrees best with the file's tensors, training arguments and name.

    Raises:
        CheckpointError: if several candidates with different predictions fit equally well.
    """
    candidates = [candidate for candidate in candidates if _matches_arguments(stored, candidate.config.model)] or list(
        candidates
    )
    candidates = [
        candidate for candidate in candidates if _reproduces_file(stored, candidate, source_format)
    ] or candidates
    ranked = sorted(candidates, key=lambda candidate: _score(stored.path, candidate), reverse=True)
    best = ranked[0]
    alternatives = [candidate for candidate in ranked if candidate.behavior != best.behavior]
    common_words = _words(stored.path) & _words(best.recipe)
    if alternatives and (_score(stored.path, alternatives[0]) == _score(stored.path, best) or not common_words):
        raise CheckpointError(
            f"{stored.path} fits several recipes with different predictions, and the file does not identify one: "
            f"{', '.join(candidate.recipe for candidate in ranked)}; choose one with --recipe"
        )
    return best


def _matches_arguments(stored: StoredWeights, model: Any) -> bool:
    """Return True unless the training arguments contradict the model's dilation, which no tensor shows."""
    dilated = stored.arguments.get("dilation")
    return dilated is None or bool(dilated) == bool(model.backbone.get("dilated", False))


def _reproduces_file(stored: StoredWeights, candidate: _Candidate, source_format: Format | None) -> bool:
    """Return True if a file of this candidate would have exactly these tensors.

    Frozen normalization has no counters, and decoders without box refinement have no heads of their own.
    """
    if source_format is None:
        return True
    counted = with_batch_counters(candidate.fit.weights, candidate.fit.model)
    return source_format.from_native(counted, candidate.fit.model).keys() == stored.weights.keys()


def _score(path: str, candidate: _Candidate) -> tuple[int, int]:
    file_words, recipe_words = _words(path), _words(candidate.recipe)
    return len(file_words & recipe_words) - len(recipe_words - file_words), int(candidate.has_same_num_classes)


def _words(name: str) -> set[str]:
    """Return the words in a recipe's name, or in the names of a file and its folder."""
    parts: Iterable[str] = Path(name).with_suffix("").parts[-2:]
    return {word for part in parts for word in re.split(r"[^a-z0-9]+", part.casefold()) if word}


def _inference_config(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _inference_config(value) for key, value in node.items() if key not in _IGNORED_KEYS}
    return [_inference_config(value) for value in node] if isinstance(node, list) else node
