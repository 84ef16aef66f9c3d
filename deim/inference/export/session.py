"""Loaded files: the interface of the runtimes, and errors that they share."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from deim.errors import CheckpointError, ConfigError
from deim.inference.export.metadata import Metadata


class Session(Protocol):
    """Loaded file that maps the inputs of its interface to its outputs.

    Attributes:
        description: runtime and device, for logs.
        batch_size: fixed batch size of the file; None if the file accepts any.
    """

    metadata: Metadata
    description: str
    batch_size: int | None

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]: ...


def import_runtime(name: str, path: str, extra: str) -> Any:
    """Import the runtime of a file.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{path} requires {name}: pip install 'deim[{extra}]'") from error


def open_or_raise(path: str, open_file: Callable[[], Any]) -> Any:
    """Return what ``open_file`` returns.

    Raises:
        CheckpointError: if it fails.
    """
    try:
        return open_file()
    except Exception as error:  # the runtimes raise their own exceptions, and plain RuntimeErrors
        raise CheckpointError(f"{path} cannot be opened: {last_line(error)}") from error


def last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def require_cpu(path: str, device: str, runtime: str) -> None:
    """Check the device for a runtime that runs on CPUs only.

    Raises:
        ConfigError: if another device is requested.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(f"{path} runs on the CPU only ({runtime}), not on {device}: use device='cpu'")
