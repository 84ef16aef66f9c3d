"""DEIM, D-FINE and their relatives as components for detectron2 and detrex."""

import importlib
from typing import Any

from deim.fallback import install_fallbacks

# This must run before any module imports detectron2 or detrex.
install_fallbacks()

__version__ = "0.1.0"

# Short names, imported when they are first asked for: ``import deim`` stays quick.
_SHORT_NAMES = {"model_zoo": "deim.config.model_zoo", "Predictor": "deim.inference.predictor:Predictor"}


def __getattr__(name: str) -> Any:
    if name not in _SHORT_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _SHORT_NAMES[name].partition(":")
    imported = importlib.import_module(module)
    return getattr(imported, attribute) if attribute else imported
