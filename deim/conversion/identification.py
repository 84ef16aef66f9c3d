"""Which recipe the weights in a file belong to."""

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
from deim.checkpoint.formats.format import with_counters
from deim.checkpoint.loading import (
    can_be_trained,
    deploy_as,
    in_our_layout,
    mismatch,
    stored_classes,
    stored_num_classes,
)
from deim.checkpoint.reading import Stored
from deim.config import build, load_config
from deim.config.files import available
from deim.config.portable import from_portable
from deim.errors import CheckpointError, ConfigError

# What a model predicts does not depend on these keys of its config.
_ONLY_TRAINING = (
    *("criterion", "num_classes", "num_detections", "denoising", "dropout", "drop_path_rate"),
    *("freeze_at", "freeze_norm", "weights", "num_one_to_many"),
)


@dataclass
class Identified:
    """A checkpoint and what it is.

    Attributes:
        stored: what is in the file.
        origin: the format of the file; None for one of this package.
        recipe: name of the recipe that describes its model.
        config: of that recipe, with the file's number of classes.
        model: on the meta device, in the form for training.
        weights: under our names.
        classes: names, where they are known.
        others: recipes that differ from ``recipe`` in their training alone.
        form: "training", or "deployment" where there is no more than prediction needs.
    """

    stored: Stored
    origin: Format | None
    recipe: str
    config: Any
    model: nn.Module
    weights: dict[str, Tensor]
    classes: Sequence[str] | None
    others: list[str]
    form: str = "training"


@dataclass
class _Candidate:
    recipe: str
    config: Any
    model: nn.Module
    weights: dict[str, Tensor]
    form: str
    problem: str | None
    native: bool  # whether it has the recipe's own number of classes

    @property
    def behavior(self) -> str:
        """Equal for models that predict alike from equal weights."""
        return str(_of_predictions(OmegaConf.to_container(self.config.model, resolve=True)))


def identify(stored: Stored, source: str = "auto", recipe: str | None = None) -> Identified:
    """Find out what a file holds.

    Args:
        stored: from :func:`deim.checkpoint.reading.read_weights`.
        source: a format's name; "auto" to recognize it.
        recipe: a name of :mod:`deim.config.model_zoo`, or a config file; None to recognize it.

    Raises:
        ConfigError: there is no such recipe.
        CheckpointError: it is no model that we know, or of several; says what does not fit.
    """
    origin = format_of(stored, source)
    said = stored.metadata.get("recipe")
    names = [recipe] if recipe else [said] if said in available() else _possible(origin, source)
    count = stored_num_classes(stored, origin)
    candidates = [_candidate(stored, name, count) for name in names]
    fitting = [one for one in candidates if one.problem is None]
    if not fitting:
        nearest = min(candidates, key=lambda one: one.problem.count("\n") if one.problem else 0)
        raise CheckpointError(
            f"{stored.path} fits none of {len(names)} recipes, {nearest.recipe} best:\n{nearest.problem}"
        )
    best = _best(stored, fitting, origin)
    others = [one.recipe for one in fitting if one is not best and one.behavior == best.behavior]
    classes = stored_classes(stored) or (class_names.known_classes(best.weights) if origin is not None else None)
    if classes is not None and len(classes) != count:
        classes = None
    return Identified(stored, origin, best.recipe, best.config, best.model, best.weights, classes, others, best.form)


def format_of(stored: Stored, source: str = "auto") -> Format | None:
    """The format of a file; None for one of this package.

    Raises:
        CheckpointError: it is not of the format ``source``, or of none that we know.
    """
    names = list(stored.weights)
    found = [one for one in FORMATS if one.recognizes(names)]
    if source not in ("auto", "native"):
        found = [one for one in found if one.name == source]
        if not found:
            raise CheckpointError(f"{stored.path} is not of the format {source!r}")
    if found and source != "native":
        return found[0]
    if not any(name.startswith(("decoder.refinement.", "decoder.queries.", "decoder.score_heads.")) for name in names):
        raise CheckpointError(
            f"{stored.path} is of no format that is known here (its tensors have names such as "
            f"{', '.join(names[:3])}); known are {', '.join(sorted({one.name for one in FORMATS}))}, and ours"
        )
    return None


def _possible(origin: Format | None, source: str) -> list[str]:
    """Names of the recipes that a file of this format can be of."""
    systems = origin.systems if origin is not None else sorted({s for one in FORMATS for s in one.systems})
    if source == "dfine":
        systems = ("dfine",)
    elif source == "deim":
        systems = [system for system in systems if system.startswith("deim")]
    return [name for name in available() if name.partition("/")[0] in systems]


def _candidate(stored: Stored, recipe: str, count: int | None) -> _Candidate:
    config = load_config(recipe)
    kept = stored.metadata.get("config")
    if kept and recipe == stored.metadata.get("recipe"):
        config.model = from_portable(kept, stored.path).model  # with what was set for its run
    native = config.model.num_classes
    config.model.num_classes = count or native
    is_native, model = native == config.model.num_classes, _build(config)
    try:
        weights = in_our_layout(stored, model, quiet=True)
    except CheckpointError as error:
        return _Candidate(recipe, config, model, {}, "training", str(error), is_native)
    form, compared, shaped = "training", weights, model
    if not can_be_trained(weights, model):
        form, shaped = "deployment", copy.deepcopy(model)
        compared = deploy_as(shaped, weights)
    problem = mismatch(stored.path, shaped.state_dict(), compared)
    return _Candidate(recipe, config, model, weights, form, problem, is_native)


def _build(config: Any) -> nn.Module:
    """A recipe's model, without memory for its parameters if it can be built so."""
    try:
        with torch.device("meta"):
            return build(config, "model")
    except ConfigError:  # detectron2's Swin Transformer reads values of a tensor while it is built
        return build(config, "model")


def _best(stored: Stored, fitting: Sequence[_Candidate], origin: Format | None) -> _Candidate:
    """The candidate that the file's tensors, its arguments and its name speak for.

    Raises:
        CheckpointError: models that predict differently fit, and nothing tells which it is.
    """
    fitting = [one for one in fitting if _agrees(stored, one.config.model)] or list(fitting)
    fitting = [one for one in fitting if _writes_as(stored, one, origin)] or fitting
    ranked = sorted(fitting, key=lambda one: _score(stored.path, one), reverse=True)
    best = ranked[0]
    rivals = [one for one in ranked if one.behavior != best.behavior]
    said = _words(stored.path) & _words(best.recipe)
    if rivals and (_score(stored.path, rivals[0]) == _score(stored.path, best) or not said):
        raise CheckpointError(
            f"{stored.path} fits recipes that predict differently, and nothing in it tells which it is of: "
            f"{', '.join(one.recipe for one in ranked)}; choose one with --recipe"
        )
    return best


def _agrees(stored: Stored, model: Any) -> bool:
    """Whether a model is dilated as the arguments say that trained the weights: it shows in no tensor."""
    dilated = stored.arguments.get("dilation")
    return dilated is None or bool(dilated) == bool(model.backbone.get("dilated", False))


def _writes_as(stored: Stored, candidate: _Candidate, origin: Format | None) -> bool:
    """Whether a file of this candidate would hold exactly these tensors: frozen normalization has no counters, and
    decoders that do not refine boxes have no heads of their own."""
    if origin is None:
        return True
    counted = with_counters(candidate.weights, candidate.model)
    return origin.to_theirs(counted, candidate.model).keys() == stored.weights.keys()


def _score(path: str, candidate: _Candidate) -> tuple[int, int]:
    said, words = _words(path), _words(candidate.recipe)
    return len(said & words) - len(words - said), int(candidate.native)


def _words(name: str) -> set[str]:
    """Of a recipe's name, or of a file's and its folder's."""
    parts: Iterable[str] = Path(name).with_suffix("").parts[-2:]
    return {word for part in parts for word in re.split(r"[^a-z0-9]+", part.casefold()) if word}


def _of_predictions(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _of_predictions(value) for key, value in node.items() if key not in _ONLY_TRAINING}
    return [_of_predictions(value) for value in node] if isinstance(node, list) else node
