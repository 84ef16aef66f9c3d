"""Measurements in a separate process."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def run_in_new_process(function: Callable, *arguments: Any) -> Any:
    """Return ``function(*arguments)``, computed in a new process that exits afterwards.

    Measurements that use the global registries of the official code, and measurements of peak memory, which never falls
    within a process, must not share a process.

    Raises:
        BrokenProcessPool: if the process was killed. Exceptions of the function are raised here as well.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
