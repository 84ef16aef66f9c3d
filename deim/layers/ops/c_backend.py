"""Deformable-attention operator in C for CPUs, several times faster than torch's ``grid_sample``."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from deim.layers.ops import native
from deim.layers.ops.operator import empty_output, register_operator

SOURCE = "deform_attn.c"


class _Sizes(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("queries", ctypes.c_int64),
        ("levels", ctypes.c_int64),
        ("total_points", ctypes.c_int64),
        ("shapes", ctypes.POINTER(ctypes.c_int64)),
        ("points", ctypes.POINTER(ctypes.c_int64)),
    ]


def unavailable_reason() -> str | None:
    """Return why this backend cannot be used; None if it can."""
    return native.unavailable_reason(SOURCE)


def _forward(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor, points: list[int]) -> Tensor:
    out = empty_output(value, locations)
    _call("deform_attn_forward", (value, locations, weights), (out,), _sizes(value, shapes, locations, points))
    return out


def _backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor, points: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    grads = value.new_zeros(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)
    sizes = _sizes(value, shapes, locations, points)
    _call("deform_attn_backward", (grad, value, locations, weights), grads, sizes)
    return grads


deform_attn_c = register_operator("deform_attn_c", _forward, _backward, torch.float32)


def _sizes(value: Tensor, shapes: list[int], locations: Tensor, points: list[int]) -> _Sizes:
    batch, tokens, heads, dim = value.shape
    arrays = [(ctypes.c_int64 * len(values))(*values) for values in (shapes, points)]
    return _Sizes(batch, tokens, heads, dim, locations.shape[1], len(points), locations.shape[3], *arrays)


def _call(function: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], sizes: _Sizes) -> None:
    native.call(SOURCE, function, [*(x.contiguous() for x in inputs), *outputs], sizes)
