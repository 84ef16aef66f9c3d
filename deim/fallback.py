"""The bundled subsets of detectron2 and detrex, for machines that lack either."""

import importlib.util
import sys
from pathlib import Path

STANDALONE = Path(__file__).parent / "standalone"


def install_fallbacks() -> None:
    """Make the bundled subsets of detectron2 and detrex importable.

    Their folder goes to the end of ``sys.path``: a real package, wherever it is, comes first, and
    each of the two falls back on its own.
    """
    path = str(STANDALONE)
    if path not in sys.path and not all(map(_is_importable, ("detectron2", "detrex"))):
        sys.path.append(path)


def _is_importable(package: str) -> bool:
    """Whether ``package`` is found, and is no mere folder of that name, such as a checkout in the
    current directory, which Python takes for an empty namespace package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def is_standalone(package: str) -> bool:
    """Whether ``"detectron2"`` or ``"detrex"`` is supplied by the bundled subset."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None and STANDALONE in Path(spec.origin).parents
