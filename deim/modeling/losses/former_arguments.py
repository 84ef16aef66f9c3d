"""Translation of the former arguments of the criterion, which selected losses by name instead of listing them."""

from collections.abc import Mapping, MutableMapping
from typing import Any

from detectron2.config import LazyCall

from deim.modeling.losses.boxes import BoxGIoULoss, BoxL1Loss
from deim.modeling.losses.classification import CLASSIFICATION_LOSSES
from deim.modeling.losses.edge_distributions import DistillationLoss, FineGrainedLocalizationLoss

# ``loss_<classification>`` is the name of the loss that ``classification`` selected.
_CLASSIFICATION_NAMES = tuple(f"loss_{name}" for name in CLASSIFICATION_LOSSES)
# In the order in which the criterion computed them.
_CLASSES: dict[str, Any] = {
    **{f"loss_{name}": loss for name, loss in CLASSIFICATION_LOSSES.items()},
    "loss_bbox": BoxL1Loss,
    "loss_giou": BoxGIoULoss,
    "loss_fgl": FineGrainedLocalizationLoss,
    "loss_ddf": DistillationLoss,
}

# Former argument -> the key that replaces it.
FORMER_ARGUMENTS = {
    "classification": "losses",
    "weights": "losses.<loss>.weight",
    "alpha": "losses.<classification loss>.alpha",
    "gamma": "losses.<classification loss>.gamma",
    "temperature": "losses.loss_ddf.temperature",
}


def former_value(losses: Mapping[str, Any], argument: str) -> Any:
    """Return the value that a former argument would have for the nodes of ``losses``."""
    name = _classification_name(losses)
    if argument == "classification":
        return None if name is None else name.removeprefix("loss_")
    if argument == "weights":
        return {name: node.get("weight", 1.0) for name, node in losses.items() if node is not None}
    node = losses.get("loss_ddf" if argument == "temperature" else (name or ""))
    return None if node is None else node.get(argument)


def translate_former_arguments(arguments: MutableMapping[str, Any]) -> list[str]:
    """Replace the former arguments of a criterion by ``losses``, in place.

    A former argument modifies the losses that ``losses`` lists: ``weights`` selects losses and sets their weights,
    ``classification`` replaces the classification loss, ``alpha`` and ``gamma`` set its parameters, and ``temperature``
    sets that of the distillation. Without ``losses``, missing arguments have their former defaults.

    Args:
        arguments: arguments of :class:`deim.modeling.losses.Criterion`, or a node of a config with these arguments.

    Returns:
        names of the former arguments that have been replaced.

    Raises:
        TypeError: if ``losses`` contains losses instead of config nodes.
        ValueError: if a classification loss or the name of a loss is unknown.
    """
    former = {name: arguments[name] for name in FORMER_ARGUMENTS if name in arguments}
    if not former:
        return []
    losses = dict((arguments.get("losses") or {}).items())
    if not all(node is None or isinstance(node, Mapping) for node in losses.values()):
        raise TypeError(
            f"criterion: {', '.join(former)} cannot be combined with losses that are not config nodes; set the arguments of these losses"
        )
    if not losses:
        former = {"classification": "mal", "weights": {}, **former}
    if former.get("classification") is not None:
        losses = _with_classification(losses, former["classification"])
    if former.get("weights") is not None:
        losses = _with_weights(losses, former["weights"], former.get("classification"))
    for name in ("alpha", "gamma"):
        if name in former:
            _set_parameter(losses, _classification_name(losses), name, former[name])
    if "temperature" in former:
        _set_parameter(losses, "loss_ddf", "temperature", former["temperature"])
    former_names = [name for name in FORMER_ARGUMENTS if name in arguments]
    for name in former_names:
        del arguments[name]
    arguments["losses"] = losses
    return former_names


def _classification_name(losses: Mapping[str, Any]) -> str | None:
    """Return the name of the classification loss; None if ``losses`` has none of this project."""
    return next((name for name in losses if name in _CLASSIFICATION_NAMES and losses[name] is not None), None)


def _with_classification(losses: Mapping[str, Any], classification: str) -> dict[str, Any]:
    """Replace the classification loss. The new loss takes over position, weight and parameters of the former."""
    if classification not in CLASSIFICATION_LOSSES:
        raise ValueError(
            f"unknown classification loss {classification!r}; choose one of {', '.join(CLASSIFICATION_LOSSES)}"
        )
    former_name, name = _classification_name(losses), f"loss_{classification}"
    if former_name is None:
        return {name: LazyCall(_CLASSES[name])(weight=1.0), **losses}
    if former_name == name:
        return dict(losses)
    parameters = {key: value for key, value in losses[former_name].items() if key != "_target_"}
    node = LazyCall(_CLASSES[name])(**parameters)
    return {name if key == former_name else key: node if key == former_name else losses[key] for key in losses}


def _with_weights(
    losses: Mapping[str, Any], weights: Mapping[str, float], classification: str | None
) -> dict[str, Any]:
    """Return the losses that ``weights`` names, with these weights. Losses that ``losses`` does not list are added."""
    classification_names = [name for name in weights if name in _CLASSIFICATION_NAMES]
    if classification is None and len(classification_names) == 1:
        losses = _with_classification(losses, classification_names[0].removeprefix("loss_"))
    present_name = _classification_name(losses)
    all_names = dict.fromkeys([*losses, *_CLASSES])
    valid_names = [name for name in all_names if name not in _CLASSIFICATION_NAMES or name == present_name]
    unknown_names = sorted(set(weights) - set(valid_names))
    if unknown_names:
        raise ValueError(
            f"criterion.weights: unknown losses {', '.join(unknown_names)}; with classification="
            f"{(present_name or '').removeprefix('loss_')!r}, choose from {', '.join(valid_names)}"
        )
    return {
        name: _with_weight(losses.get(name) or LazyCall(_CLASSES[name])(), weights[name])
        for name in valid_names
        if name in weights
    }


def _with_weight(node: Any, weight: float) -> Any:
    node["weight"] = weight
    return node


def _set_parameter(losses: Mapping[str, Any], name: str | None, parameter: str, value: Any) -> None:
    """Set a parameter of a loss, if ``losses`` has this loss. None removes the parameter, whose default then applies."""
    node = None if name is None else losses.get(name)
    if node is None:
        return
    if value is not None:
        node[parameter] = value
    elif parameter in node:
        del node[parameter]
