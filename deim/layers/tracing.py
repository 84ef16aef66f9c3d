"""Detection of graph tracing, and caching of tensors between calls."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Older versions of torch do not distinguish exporting from compiling.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def is_exporting() -> bool:
    """Return True if torch is tracing a graph for export, which must contain only torch's own operators."""
    return _is_exporting() or torch.jit.is_tracing()


def is_tracing() -> bool:
    """Return True if torch is tracing a graph, for export or compilation."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def sizes_to_tensor(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Return sizes as a tensor.

    Args:
        rows: N rows of M numbers. During tracing the numbers are tensors that stay in the graph, so that the graph
            supports other image sizes.
        device: device of the result.

    Returns:
        (N, M) float32.
    """
    if torch.jit.is_tracing():
        return (
            torch.stack([torch.stack([torch.as_tensor(number) for number in row]) for row in rows]).float().to(device)
        )
    return torch.tensor(rows, dtype=torch.float32, device=device)


def cached_tensors(function: Callable[Arguments, Result], maxsize: int = 64) -> Callable[Arguments, Result]:
    """Cache the results of a function that creates tensors from shapes, like :func:`functools.lru_cache`.

    During tracing nothing is cached: the tensors belong to the graph, and shapes may be symbolic. Cached tensors are
    created outside of inference mode, so that they can also be used in training.
    """

    @functools.lru_cache(maxsize)
    def cached(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if is_tracing():
            return function(*args, **kwargs)
        result = cached(*args, **kwargs)  # type: ignore[arg-type]
        for collector in _collectors:
            collector.append(result)
        return result

    return wrapper


_collectors: list[list[Any]] = []


@contextmanager
def collect_cached_tensors() -> Iterator[list[Any]]:
    """Return a context that yields a list of the tensors that :func:`cached_tensors` functions return within it.

    A recorded CUDA graph reads from fixed addresses. Holding the list keeps its tensors alive after they are evicted
    from the cache.
    """
    collector: list[Any] = []
    _collectors.append(collector)
    try:
        yield collector
    finally:
        # By identity: remove() would compare the tensors in the lists.
        _collectors[:] = [other for other in _collectors if other is not collector]
