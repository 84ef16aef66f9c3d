"""Prediction heads as components of a model config, with their losses and matching costs."""

from collections.abc import Iterable, Mapping
from typing import Any

from deim.config.former_keys import replace_former_loss_keys


def has_head(model: Any, field: str) -> bool:
    """Return True if the decoder of a model config has a head for a field of the predictions, such as ``masks``."""
    return (model.decoder.get("heads") or {}).get(field) is not None


def add_head(model: Any, field: str, head: Any, losses: Mapping[str, Any], cost: Any) -> None:
    """Add a head to a model config, in place; it replaces an earlier head of the same field.

    Args:
        model: the node of a recipe.
        field: field of the predictions.
        head: node of the head.
        losses: {name: node} of the losses of the field.
        cost: node of the matching cost of the field.
    """
    model.decoder.heads = {**(model.decoder.get("heads") or {}), field: head}
    criterion = model.criterion
    replace_former_loss_keys(criterion)
    criterion.losses = {**criterion.losses, **losses}
    criterion.matcher.further_costs = [*_costs_without(criterion, cost._target_), cost]


def remove_head(model: Any, field: str, losses: Iterable[str], cost: type) -> None:
    """Remove a head, its losses and its matching cost from a model config, in place.

    Args:
        model: the node of a recipe.
        field: field of the predictions.
        losses: names of the losses of the field.
        cost: class of the matching cost of the field.
    """
    model.decoder.heads = {name: head for name, head in model.decoder.heads.items() if name != field}
    criterion = model.criterion
    names = set(losses)
    criterion.losses = {name: loss for name, loss in criterion.losses.items() if name not in names}
    criterion.matcher.further_costs = _costs_without(criterion, cost)


def _costs_without(criterion: Any, cost: Any) -> list[Any]:
    """Return the further costs of the matcher except those of a class, given as the class or its name."""
    name = _class_name(cost)
    costs = criterion.matcher.get("further_costs") or ()
    return [node for node in costs if _class_name(node._target_) != name]


def _class_name(target: Any) -> str:
    """Return the name without module of a class or of a dotted path."""
    return (target if isinstance(target, str) else target.__name__).rpartition(".")[2]
