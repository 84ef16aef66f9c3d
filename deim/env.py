"""Which detectron2, detrex and kernels this installation uses.

``python -m deim.env`` prints it.
"""

import importlib
import importlib.util
import platform
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


def describe() -> dict[str, str]:
    """Versions, origin of detectron2 and detrex, device and deformable-attention backend."""
    import torch

    from deim.layers.ops import selected_backend

    described = {
        "deim": importlib.import_module("deim").__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for package in ("detectron2", "detrex"):
        origin = "bundled subset" if is_standalone(package) else "installed"
        try:
            version = getattr(importlib.import_module(package), "__version__", "version unknown")
        except ImportError as error:
            version = f"cannot be imported: {error}"
        described[package] = f"{origin}, {version}"
    cuda = torch.cuda.is_available()
    described["device"] = torch.cuda.get_device_name() if cuda else "cpu"
    described["deformable attention"] = selected_backend()
    return described


if __name__ == "__main__":
    importlib.import_module("deim")
    for key, value in describe().items():
        print(f"{key:22}{value}")
