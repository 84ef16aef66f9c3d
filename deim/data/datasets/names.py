"""Registered name of a dataset in a config."""

from collections.abc import Mapping
from typing import Any


def registered_name(dataset: Any) -> str | None:
    """Return the detectron2 name of a ``dataset`` node of a config; None if it has none.

    Args:
        dataset: a node with ``names`` as in detectron2's ``get_detection_dataset_dicts``: one name or several. The
            first one defines the classes.
    """
    if not isinstance(dataset, Mapping):
        return None
    names = dataset.get("names")
    if isinstance(names, str) or names is None:
        return names
    return next(iter(names), None)
