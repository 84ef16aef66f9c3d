"""Class-specific weights: transfer by class name between different sets of classes."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deim.checkpoint.class_lists import CLASSES_BY_COUNT, COCO_AS_OBJECTS365

logger = logging.getLogger("detectron2.deim")

# These modules have one row per class. Embeddings may have one more row, for "no object".
_SCORES, _LABELS = "score_head", "class_embedding"


def depends_on_classes(name: str) -> bool:
    """Return True if the shape of the parameter with this name depends on the number of classes."""
    return _SCORES in name or _LABELS in name


def num_classes(weights: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a model with these weights; None if no tensor shows it."""
    return next((len(value) for name, value in weights.items() if _SCORES in name), None)


def infer_classes(
    weights: Mapping[str, Tensor], other_classes: Mapping[int, Sequence[str]] | None = None
) -> Sequence[str] | None:
    """Return the class names that published weights with this number of classes have; None if no published weights do.

    These numbers are 80 (COCO) and 365 (Objects365), with one score per class, and 91 and 366, with one score per
    category id.

    Args:
        weights: weights under native names.
        other_classes: {number of classes: their names} of further published weights.
    """
    count = num_classes(weights)
    return None if count is None else {**CLASSES_BY_COUNT, **(other_classes or {})}.get(count)


def class_rows(checkpoint_classes: Sequence[str], model_classes: Sequence[str]) -> list[int | None]:
    """Return for each class of the model the index of the same class in the checkpoint, or None.

    Names are compared without case and surrounding spaces. COCO and Objects365 classes with different names are matched
    as in D-FINE's code.
    """
    index = {_plain(name): row for row, name in enumerate(checkpoint_classes) if name}
    other_names = {_plain(a): _plain(b) for a, b in COCO_AS_OBJECTS365.items()}
    other_names |= {b: a for a, b in other_names.items()}
    names = [_plain(name) for name in model_classes]
    return [index.get(name, index.get(other_names.get(name, ""))) for name in names]


def transfer_class_rows(
    weights: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    rows: Sequence[int | None],
    class_agnostic_modules: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Return weights for a model with other classes.

    Args:
        weights: weights of the checkpoint.
        state: state dict of the model; new classes keep its values.
        rows: result of :func:`class_rows`.
        class_agnostic_modules: modules whose scores keep their position, because they do not belong to a class, such
            as an objectness score.
    """
    transferred = [(row, source) for row, source in enumerate(rows) if source is not None]
    count = num_classes(weights) or 0
    result = dict(weights)
    for name, value in state.items():
        if not depends_on_classes(name) or name not in weights:
            continue
        if value.shape[1:] != weights[name].shape[1:]:  # a model of another width: loading reports the difference
            continue
        rows_of_model, source = value.detach().clone().cpu(), weights[name].to(value.dtype)
        if len(source) == len(rows_of_model) > len(rows) + 1:  # the other rows are labels without a class
            rows_of_model = source.clone()
        # Embeddings have one more row, for "no object".
        no_object_row = [(len(rows), count)] if len(source) > count and len(rows_of_model) > len(rows) else []
        identity_rows = [(row, row) for row in range(min(len(rows_of_model), len(source)))]
        pairs = torch.tensor(
            identity_rows if name.startswith(class_agnostic_modules) else transferred + no_object_row, dtype=torch.long
        ).view(-1, 2)
        rows_of_model[pairs[:, 0]] = source[pairs[:, 1]]
        result[name] = rows_of_model
    return result


def log_class_transfer(
    path: str, checkpoint_classes: Sequence[str], model_classes: Sequence[str], rows: Sequence[int | None]
) -> None:
    """Log which classes keep their weights and which are newly initialized."""
    kept = [
        f"{model_classes[row]} <- {checkpoint_classes[source]} ({source})"
        for row, source in enumerate(rows)
        if source is not None
    ]
    new = [model_classes[row] for row, source in enumerate(rows) if source is None]
    logger.info(f"Classes that keep their weights from {path}: {', '.join(kept) or 'none'}")
    if new:
        logger.warning(f"Classes that {path} does not contain, newly initialized: {', '.join(new)}")


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())
