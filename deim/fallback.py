"""Bundled subsets of detectron2 and detrex, for machines without them."""

import importlib.util
import sys
from pathlib import Path

STANDALONE = Path(__file__).parent / "standalone"


def install_fallbacks() -> None:
    """Make the bundled subsets of detectron2 and detrex importable.

    Their folder is appended to ``sys.path``, so an installed package takes precedence, separately for each of the two.
    """
    path = str(STANDALONE)
    if path not in sys.path and not all(map(_is_importable, ("detectron2", "detrex"))):
        sys.path.append(path)


def _is_importable(package: str) -> bool:
    """Return True if ``package`` is found and is not a namespace package.

    Python imports any folder of that name, such as a checkout in the current directory, as an empty namespace package.
    """
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def is_standalone(package: str) -> bool:
    """Return True if ``package`` ("detectron2" or "detrex") is imported from the bundled subset."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None and STANDALONE in Path(spec.origin).parents
