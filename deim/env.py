"""Description of the installation: versions, origin of detectron2 and detrex, device, kernels.

``python -m deim.env`` prints it.
"""

import importlib
import platform

from deim.environment_variables import prepare_environment
from deim.fallback import is_standalone


def describe_environment() -> dict[str, str]:
    """Return the versions, the origin of detectron2 and detrex, the device, and the kernels used on the device."""
    import torch

    from deim.devices import choose_device
    from deim.layers.ops import BACKENDS, batch_norm, native, selected_backend, unavailable_reason

    description = {
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
        description[package] = f"{origin}, {version}"
    device = choose_device("auto").type
    description["device"] = torch.cuda.get_device_name() if device == "cuda" else device
    uses_c_kernel = device == "cpu" and native.unavailable_reason(batch_norm.SOURCE) is None
    description["normalization"] = "c, in training" if uses_c_kernel else "torch"
    description["deformable attention"] = selected_backend(device)
    for name in BACKENDS:
        description[f"  {name}"] = unavailable_reason(name, device) or "can be used"
    return description


def main() -> None:
    """Print :func:`describe_environment`."""
    for key, value in describe_environment().items():
        print(f"{key:22}{value}")


if __name__ == "__main__":
    prepare_environment()
    main()
