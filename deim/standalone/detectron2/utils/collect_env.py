"""Table of library versions and devices."""

import importlib
import os
import platform
import sys

import numpy as np
import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]


def collect_env_info() -> str:
    """Return a table of the versions of Python, torch and related libraries, and of the CUDA devices."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", platform.python_version()),
        ("numpy", np.__version__),
        ("detectron2", importlib.import_module("detectron2").__version__),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("CUDA available", torch.cuda.is_available()),
    ]
    for i in range(torch.cuda.device_count()):
        rows.append((f"GPU {i}", torch.cuda.get_device_name(i)))
    for name in ("torchvision", "fvcore", "iopath", "cv2", "PIL"):
        try:
            version = getattr(importlib.import_module(name), "__version__", "unknown")
        except ImportError:
            version = "not installed"
        rows.append((name, version))
    return tabulate(rows)
