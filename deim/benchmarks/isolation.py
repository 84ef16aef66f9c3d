"""What is measured in a process of its own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def in_its_own_process(function: Callable, *arguments: Any) -> Any:
    """``function(*arguments)`` by a fresh process, which ends with it.

    The official code has global registries, and the peak of a process's memory never falls.

    Raises:
        BrokenProcessPool: the process was killed. What the function raises is raised here.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
