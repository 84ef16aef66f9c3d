"""The name that a data set of a config is registered by."""

from collections.abc import Mapping
from typing import Any


def registered_name(dataset: Any) -> str | None:
    """Return the name that a ``dataset`` node of a config registers or reads with detectron2; None if it has none.

    Args:
        dataset: a node with ``names``, as detectron2's ``get_detection_dataset_dicts`` has it: a name, or several, of
            which the first describes the classes.
    """
    if not isinstance(dataset, Mapping):
        return None
    names = dataset.get("names")
    if isinstance(names, str) or names is None:
        return names
    return next(iter(names), None)
