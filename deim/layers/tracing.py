"""While a model is traced into a graph: whether it is, and tensors that are kept from call to call."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")

# Older versions of torch do not tell exporting from compiling.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def is_exporting() -> bool:
    """Whether torch traces a graph that is to be of its own operators alone."""
    return _is_exporting() or torch.jit.is_tracing()


def is_traced() -> bool:
    """Whether torch traces a graph, to export or to compile it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def tensor_of_sizes(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Return sizes as a tensor.

    Args:
        rows: N rows of M numbers. While a graph is traced they are tensors, which stay in the graph, so that it serves images
            of other sizes.

    Returns:
        (N, M) float32.
    """
    if torch.jit.is_tracing():
        return torch.stack([torch.stack([torch.as_tensor(one) for one in row]) for row in rows]).float().to(device)
    return torch.tensor(rows, dtype=torch.float32, device=device)


def remembered(make: Callable[Arguments, Made], maxsize: int = 64) -> Callable[Arguments, Made]:
    """:func:`functools.lru_cache` for functions that make tensors out of shapes.

    What is made while a graph is traced belongs to it and is not kept, and shapes may be symbols there. What is kept is
    made outside of inference mode, so that it serves training, too.
    """

    @functools.lru_cache(maxsize)
    def kept(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
        with torch.inference_mode(False):
            return make(*args, **kwargs)

    @functools.wraps(make)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
        if is_traced():
            return make(*args, **kwargs)
        made = kept(*args, **kwargs)  # type: ignore[arg-type]
        for users in _users:
            users.append(made)
        return made

    return call


_users: list[list[Any]] = []


@contextmanager
def remembered_values_in_use() -> Iterator[list[Any]]:
    """What :func:`remembered` functions return meanwhile, in a list: whoever holds it keeps it from being freed when it is
    forgotten, which a recorded CUDA graph, reading from where it was, would not notice."""
    users: list[Any] = []
    _users.append(users)
    try:
        yield users
    finally:
        _users.remove(users)
