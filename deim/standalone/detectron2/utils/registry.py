"""Registry, and import by dotted path."""

import pydoc
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Import the object at a dotted path such as ``"torch.nn.Linear"``.

    Raises:
        ImportError: if ``name`` cannot be imported.
    """
    target = pydoc.locate(name)
    if target is None:
        # pydoc does not find torch.optim.sgd, since its package deletes the name "sgd"; hydra does.
        from hydra.utils import _locate

        target = _locate(name)
    return target


def _convert_target_to_string(target: Any) -> str:
    """Return the shortest dotted path from which ``target`` can be imported.

    A class defined in ``pkg.sub._impl`` and exported by ``pkg.sub`` becomes ``pkg.sub.Class``, so that saved configs
    stay valid if the implementation moves.
    """
    module, name = target.__module__, target.__qualname__
    parts = module.split(".")
    for depth in range(1, len(parts)):
        shorter = ".".join([*parts[:depth], name])
        if pydoc.locate(shorter) is target:
            return shorter
    return f"{module}.{name}"
