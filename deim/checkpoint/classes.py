"""Classes of one checkpoint for a model of others: by name."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deim.checkpoint.class_lists import BY_COUNT, COCO_AS_OBJECTS365

logger = logging.getLogger("detectron2.deim")

# Parameters of these parts have one row for each class. Embeddings may have a last one for what is no object.
_SCORES, _LABELS = "score_head", "class_embedding"


def depends_on_classes(name: str) -> bool:
    """Whether the size of a parameter of this name depends on the number of classes."""
    return _SCORES in name or _LABELS in name


def num_classes(weights: Mapping[str, Tensor]) -> int | None:
    """How many classes a model with these weights tells apart; None if no tensor says so."""
    return next((len(value) for name, value in weights.items() if _SCORES in name), None)


def known_classes(weights: Mapping[str, Tensor]) -> Sequence[str] | None:
    """The classes of published weights of that many classes (COCO, by position or by category id, and
    Objects365); None for other numbers."""
    count = num_classes(weights)
    return None if count is None else BY_COUNT.get(count)


def class_rows(stored: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each wanted class the index of the stored one of the same name; None where there is none.

    Names are compared without case and outer spaces. Classes of COCO and of Objects365 that are called
    differently match as D-FINE's authors match them.
    """
    index = {_plain(name): row for row, name in enumerate(stored) if name}
    other_names = {_plain(a): _plain(b) for a, b in COCO_AS_OBJECTS365.items()}
    other_names |= {b: a for a, b in other_names.items()}
    plain = [_plain(name) for name in wanted]
    return [index.get(name, index.get(other_names.get(name, ""))) for name in plain]


def with_rows(
    weights: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    rows: Sequence[int | None],
    by_place: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Weights for a model of other classes.

    Args:
        weights: of the checkpoint.
        state: of the model, whose values new classes keep.
        rows: from :func:`class_rows`.
        by_place: modules whose scores keep their place: they are of no class, such as whether there is an object.
    """
    moved = [(row, source) for row, source in enumerate(rows) if source is not None]
    count = num_classes(weights) or 0
    result = dict(weights)
    for name, value in state.items():
        if not depends_on_classes(name) or name not in weights:
            continue
        adapted, source = value.detach().clone().cpu(), weights[name].to(value.dtype)
        # embeddings have one more, of what is no object
        last = [(len(rows), count)] if len(source) > count and len(adapted) > len(rows) else []
        same = [(row, row) for row in range(min(len(adapted), len(source)))]
        pairs = torch.tensor(same if name.startswith(by_place) else moved + last, dtype=torch.long).view(-1, 2)
        adapted[pairs[:, 0]] = source[pairs[:, 1]]
        result[name] = adapted
    return result


def report(path: str, stored: Sequence[str], wanted: Sequence[str], rows: Sequence[int | None]) -> None:
    """Say in the log which classes keep their weights, and which start anew."""
    kept = [f"{wanted[row]} <- {stored[source]} ({source})" for row, source in enumerate(rows) if source is not None]
    new = [wanted[row] for row, source in enumerate(rows) if source is None]
    logger.info(f"Classes that keep their weights from {path}: {', '.join(kept) or 'none'}")
    if new:
        logger.warning(f"Classes that {path} does not know, newly initialized: {', '.join(new)}")


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())
