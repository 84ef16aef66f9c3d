"""Name <-> object: the registry class and import by dotted path."""

import pydoc
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Import the object at a dotted path such as ``"torch.nn.Linear"``.

    Raises:
        ImportError: nothing can be imported at ``name``.
    """
    found = pydoc.locate(name)
    if found is None:
        raise ImportError(f"Cannot locate object {name!r}: no module or attribute of that name")
    return found


def _convert_target_to_string(target: Any) -> str:
    """The shortest dotted path that leads back to ``target``.

    A class defined in ``pkg.sub._impl`` and exported by ``pkg.sub`` is written ``pkg.sub.Class``, so
    that saved configs survive a move of the implementation.
    """
    module, name = target.__module__, target.__qualname__
    parts = module.split(".")
    for depth in range(1, len(parts)):
        shorter = ".".join([*parts[:depth], name])
        if pydoc.locate(shorter) is target:
            return shorter
    return f"{module}.{name}"
