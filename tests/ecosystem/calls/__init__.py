"""Calls of detectron2 and detrex that must have the same outcome with the real packages and with the bundled subset.

Each module of this package defines ``CALLS``: Python expressions, evaluated in the namespace of the module. The test
evaluates them with the real packages; ``python -m tests.ecosystem.calls`` evaluates them with the bundled subset.
``unsupported`` lists calls that the subset rejects.
"""

import contextlib
import importlib
import io
import logging
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch

GROUPS = ("structures", "transforms", "data", "config", "events", "engine", "evaluation", "modeling", "detrex")


def list_calls(*groups: str) -> list[tuple[str, str]]:
    """Return the calls of groups as (group, expression)."""
    return [(group, call) for group in groups for call in _module(group).CALLS]


def outcome(group: str, call: str) -> Any:
    """Evaluate an expression and return its value, or the exception that it raises, as plain objects."""
    try:
        return plain(evaluate(group, call))
    except NameError:
        raise  # an error in the table of calls
    except Exception as error:
        return ("raises", type(error).__name__)


def evaluate(group: str, call: str) -> Any:
    """Evaluate an expression, suppressing output, log messages and warnings."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), unchanged_globals():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        return eval(call, dict(vars(_module(group))))


@contextlib.contextmanager
def unchanged_globals() -> Iterator[None]:
    """Restore the process-wide state that the setup of a run changes."""
    loggers = [logging.getLogger(name) for name in ("", "detectron2", "fvcore", "other", "same")]
    states = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    precision, allow_tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    seed, benchmark, disabled = (
        os.environ.get("PYTHONHASHSEED"),
        torch.backends.cudnn.benchmark,
        logging.root.manager.disable,
    )
    try:
        yield
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, states, strict=True):
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers
        logging.disable(disabled)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = allow_tf32
        if seed is None:
            os.environ.pop("PYTHONHASHSEED", None)
        else:
            os.environ["PYTHONHASHSEED"] = seed


@dataclass
class Approximate:
    """Floating-point numbers that two implementations may round differently."""

    tensor: torch.Tensor


def equal(first: Any, second: Any) -> bool:
    """Return True if two descriptions agree. Numbers in :class:`Approximate` may differ by rounding."""
    if isinstance(first, tuple) and first[:1] == ("near",) and isinstance(second, tuple) and second[:1] == ("near",):
        return first[1:3] == second[1:3] and np.allclose(first[3], second[3], rtol=1e-4, atol=1e-5, equal_nan=True)
    if isinstance(first, (list, tuple)) and type(first) is type(second):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def plain(value: Any) -> Any:
    """Convert a value to objects of the standard library: types, dtypes, shapes, numbers."""
    if isinstance(value, Approximate):
        tensor = value.tensor.detach().cpu()
        return ("near", str(tensor.dtype), tuple(tensor.shape), tensor.double().flatten().tolist())
    if isinstance(value, torch.Tensor):
        return (
            "tensor",
            str(value.dtype),
            tuple(value.shape),
            str(value.device),
            _numbers(value.detach().cpu().tolist()),
        )
    if isinstance(value, np.ndarray):
        return ("array", str(value.dtype), value.shape, _numbers(value.tolist()))
    if isinstance(value, Enum):
        return (type(value).__name__, value.name, value.value)
    if isinstance(value, (str, bytes)) or value is None:
        return value
    if isinstance(value, (bool, int, float, np.generic)):
        return (type(value).__name__, _numbers(value))
    if isinstance(value, type):
        return ("class", value.__name__)
    return _plain_container(value)


def _plain_container(value: Any) -> Any:
    name = type(value).__name__
    if isinstance(value, Mapping):
        return (name, [(plain(key), plain(entry)) for key, entry in value.items()])
    if isinstance(value, (set, frozenset)):
        return (name, sorted(map(repr, map(plain, value))))
    if isinstance(value, (list, tuple)):
        return (name, [plain(entry) for entry in value])
    if name == "Instances":
        return (name, plain(value.image_size), plain(value.get_fields()))
    if name in ("Boxes", "BitMasks", "Keypoints"):
        return (name, plain(value.tensor))
    if name == "PolygonMasks":
        return (name, plain(value.polygons))
    if name == "ImageList":
        return (name, plain(value.tensor), plain(value.image_sizes))
    if name.endswith("Transform") or name in ("ShapeSpec", "TransformList"):
        return (name, plain(vars(value)))
    return ("object", name)


def _numbers(values: Any) -> Any:
    """Convert floating-point numbers to text, since NaN != NaN; other values remain."""
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return repr(float(values)) if isinstance(values, (float, np.floating)) else values


@contextlib.contextmanager
def messages(logger: str = "") -> Iterator[list[str]]:
    """Collect the messages logged within the context, as "LEVEL: message"."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname}: {record.getMessage()}")

    target, handler = logging.getLogger(logger), Collect()
    level, propagates = target.level, target.propagate
    logging.disable(logging.NOTSET)
    target.addHandler(handler)
    target.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        target.removeHandler(handler)
        target.setLevel(level)
        target.propagate = propagates


def _module(group: str) -> Any:
    return importlib.import_module(f"tests.ecosystem.calls.{group}")
