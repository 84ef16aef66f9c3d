"""Backends of the deformable-attention operator.

``DEIM_DEFORM_ATTN=<name>`` forces a backend; otherwise the first usable backend of :data:`BACKENDS` for the device is
selected. Inputs of dtype float64 always use ``torch``. Exported graphs contain one of :data:`EXPORT_FORMS`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from deim.layers.ops import c_backend, detrex_backend, triton_backend
from deim.layers.ops.operator import DeformAttn
from deim.layers.ops.plugin import deform_attn_plugin
from deim.layers.ops.torch_backend import deform_attn_gather, deform_attn_nearest, deform_attn_torch
from deim.layers.tracing import is_exporting

__all__ = [
    "BACKENDS",
    "EXPORT_FORMS",
    "Backend",
    "deform_attn",
    "deform_attn_nearest",
    "selected_backend",
    "use_export_form",
]


@dataclass(frozen=True)
class Backend:
    """An implementation of :func:`deform_attn`.

    Attributes:
        run: the implementation.
        devices: supported device types; empty for all.
        unavailable_reason: returns the reason why the backend cannot be used on this machine; None if it can.
    """

    run: DeformAttn
    devices: tuple[str, ...] = ()
    unavailable_reason: Callable[[], str | None] = lambda: None


# In order of preference.
BACKENDS: dict[str, Backend] = {
    "triton": Backend(triton_backend.deform_attn_triton, ("cuda",), triton_backend.unavailable_reason),
    "detrex": Backend(detrex_backend.deform_attn_detrex, ("cuda",), detrex_backend.unavailable_reason),
    "c": Backend(c_backend.deform_attn_c, ("cpu",), c_backend.unavailable_reason),
    "torch": Backend(deform_attn_torch),
}

# Forms of the operator in exported graphs: GridSample (the smallest graph), gathering (for runtimes that are slow at
# GridSample), and TensorRT's plugin (TensorRT only).
EXPORT_FORMS: dict[str, DeformAttn] = {
    "grid_sample": deform_attn_torch,
    "gather": deform_attn_gather,
    "plugin": deform_attn_plugin,
}
_export_form = ["grid_sample"]


@contextmanager
def use_export_form(form: str) -> Iterator[None]:
    """Within the context, export deformable attention in one of :data:`EXPORT_FORMS`."""
    _export_form.append(form)
    try:
        yield
    finally:
        _export_form.pop()


_selected_backends: dict[tuple[str, str], str] = {}


def selected_backend(device: str = "cpu") -> str:
    """Return the name of the backend that :func:`deform_attn` uses on a device type, except for float64.

    Raises:
        ValueError: if ``DEIM_DEFORM_ATTN`` is not a backend, or the backend cannot be used on the device.
    """
    key = (device, os.environ.get("DEIM_DEFORM_ATTN", ""))
    if key not in _selected_backends:  # not functools.cache, which torch.compile cannot trace
        _selected_backends[key] = _select(*key)
    return _selected_backends[key]


def _select(device: str, forced: str) -> str:
    if not forced:
        return next(name for name in BACKENDS if unavailable_reason(name, device) is None)
    if forced not in BACKENDS:
        raise ValueError(f"DEIM_DEFORM_ATTN={forced!r} is not a backend; choose one of {', '.join(BACKENDS)}")
    reason = unavailable_reason(forced, device)
    if reason is not None:
        raise ValueError(f"DEIM_DEFORM_ATTN={forced!r} cannot be used: {reason}")
    return forced


def unavailable_reason(name: str, device: str) -> str | None:
    """Return why a backend cannot be used on a device type; None if it can."""
    backend = BACKENDS[name]
    if backend.devices and device not in backend.devices:
        return f"it supports {', '.join(backend.devices)}, not {device}"
    return backend.unavailable_reason()


def deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """Compute weighted sums of bilinear samples from several feature maps (Deformable DETR, equation 3).

    Args:
        value: (B, S, H, D), concatenated over levels, each level in row-major order; S = sum of h * w.
        spatial_shapes: (h, w) of each level.
        locations: (B, Q, H, P, 2) sampling positions x, y, relative to the map ([0, 1]), with the points of all levels
            concatenated; samples outside of the map are zero.
        weights: (B, Q, H, P).
        num_points: number of points on each level; their sum is P.

    Returns:
        (B, Q, H * D).

    Raises:
        ValueError: if the shapes are inconsistent.
    """
    _check_sizes(value, spatial_shapes, locations, weights, num_points)
    return _implementation(value)(value, spatial_shapes, locations, weights, num_points)


def _implementation(value: Tensor) -> DeformAttn:
    if is_exporting():
        return EXPORT_FORMS[_export_form[-1]]
    if value.dtype == torch.float64:  # the kernels accumulate in float32
        return deform_attn_torch
    return BACKENDS[selected_backend(value.device.type)].run


def _check_sizes(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> None:
    """Raise ValueError for inconsistent shapes, which the kernels do not check."""
    (batch, tokens, heads, _), queries, total = value.shape, locations.shape[1], sum(num_points)
    is_consistent = (
        tokens == sum(height * width for height, width in spatial_shapes)
        and len(spatial_shapes) == len(num_points)
        and locations.shape == (batch, queries, heads, total, 2)
        and weights.shape == (batch, queries, heads, total)
    )
    if not is_consistent:
        raise ValueError(
            f"deformable attention: inconsistent shapes: locations {tuple(locations.shape)}, weights "
            f"{tuple(weights.shape)}, num_points {list(num_points)}, value {tuple(value.shape)}, spatial_shapes "
            f"{list(spatial_shapes)}"
        )
