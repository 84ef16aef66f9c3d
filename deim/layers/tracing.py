"""While a model is traced into a graph: whether it is, and tensors that are kept from call to call."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")

# Older versions of torch do not tell exporting from compiling.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def is_exporting() -> bool:
    """Whether torch traces a graph that is to be of its own operators alone."""
    return _is_exporting() or torch.jit.is_tracing()


def remembered(make: Callable[Arguments, Made], maxsize: int = 64) -> Callable[Arguments, Made]:
    """:func:`functools.lru_cache` for functions that make tensors out of shapes: what is made during an export belongs
    to its graph and is not kept, and shapes may be symbols there."""
    kept = functools.lru_cache(maxsize)(make)

    @functools.wraps(make)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
        return make(*args, **kwargs) if is_exporting() else kept(*args, **kwargs)  # type: ignore[arg-type]

    return call
