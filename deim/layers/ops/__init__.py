"""Backends of the deformable-attention operator.

``DEIM_DEFORM_ATTN=<name>`` forces one; otherwise the first in :data:`BACKENDS` is taken that can be used for a device.
An exported graph has one of :data:`EXPORT_FORMS`.
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
    "exported_as",
    "selected_backend",
]


@dataclass(frozen=True)
class Backend:
    """An implementation of :func:`deform_attn`.

    Attributes:
        run: it.
        devices: types of device that it is for; none for all.
        problem: why it cannot be used here; None if it can.
    """

    run: DeformAttn
    devices: tuple[str, ...] = ()
    problem: Callable[[], str | None] = lambda: None


# The best first.
BACKENDS: dict[str, Backend] = {
    "triton": Backend(triton_backend.deform_attn_triton, ("cuda",), triton_backend.problem),
    "detrex": Backend(detrex_backend.deform_attn_detrex, ("cuda",), detrex_backend.problem),
    "c": Backend(c_backend.deform_attn_c, ("cpu",), c_backend.problem),
    "torch": Backend(deform_attn_torch),
}

# What an exported graph is made of: GridSample, the smallest graph; without it, for what is not good at it; and TensorRT's
# plug-in, for nothing else.
EXPORT_FORMS: dict[str, DeformAttn] = {
    "grid_sample": deform_attn_torch,
    "gather": deform_attn_gather,
    "plugin": deform_attn_plugin,
}
_export_form = ["grid_sample"]


@contextmanager
def exported_as(form: str) -> Iterator[None]:
    """Models that are exported inside have this one of :data:`EXPORT_FORMS`."""
    _export_form.append(form)
    try:
        yield
    finally:
        _export_form.pop()


_chosen: dict[tuple[str, str], str] = {}


def selected_backend(device: str = "cpu") -> str:
    """Name of the backend that :func:`deform_attn` uses on a type of device.

    Raises:
        ValueError: ``DEIM_DEFORM_ATTN`` names none, or one that cannot be used there.
    """
    key = (device, os.environ.get("DEIM_DEFORM_ATTN", ""))
    if key not in _chosen:  # not functools.cache, which torch.compile does not see through
        _chosen[key] = _select(*key)
    return _chosen[key]


def _select(device: str, forced: str) -> str:
    if not forced:
        return next(name for name in BACKENDS if unusable(name, device) is None)
    if forced not in BACKENDS:
        raise ValueError(f"DEIM_DEFORM_ATTN={forced!r} is no backend; choose one of {', '.join(BACKENDS)}")
    reason = unusable(forced, device)
    if reason is not None:
        raise ValueError(f"DEIM_DEFORM_ATTN={forced!r} cannot be used: {reason}")
    return forced


def unusable(name: str, device: str) -> str | None:
    """Why a backend cannot be used on a type of device; None if it can."""
    backend = BACKENDS[name]
    if backend.devices and device not in backend.devices:
        return f"it is for {', '.join(backend.devices)}, not for {device}"
    return backend.problem()


def deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> Tensor:
    """Weighted sums of bilinear samples from several feature maps (Deformable DETR, equation 3).

    Args:
        value: (B, S, H, D), the levels one after the other, each row by row; S = sum of h * w.
        spatial_shapes: (h, w) of each level.
        locations: (B, Q, H, P, 2) sampling positions x, y in [0, 1] of the map, the points of the
            levels one after the other; outside of the map samples are zero.
        weights: (B, Q, H, P).
        num_points: points of each level, of sum P.

    Returns:
        (B, Q, H * D).

    Raises:
        ValueError: sizes do not fit each other.
    """
    _check_sizes(value, spatial_shapes, locations, weights, num_points)
    return _implementation(value)(value, spatial_shapes, locations, weights, num_points)


def _implementation(value: Tensor) -> DeformAttn:
    if is_exporting():
        return EXPORT_FORMS[_export_form[-1]]
    if value.dtype == torch.float64:  # kernels sum in single precision
        return deform_attn_torch
    return BACKENDS[selected_backend(value.device.type)].run


def _check_sizes(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
) -> None:
    """Kernels trust them."""
    (batch, tokens, heads, _), queries, total = value.shape, locations.shape[1], sum(num_points)
    fits = (
        tokens == sum(height * width for height, width in spatial_shapes)
        and len(spatial_shapes) == len(num_points)
        and locations.shape == (batch, queries, heads, total, 2)
        and weights.shape == (batch, queries, heads, total)
    )
    if not fits:
        raise ValueError(
            f"deformable attention cannot look at {tuple(locations.shape)} locations with {tuple(weights.shape)} weights, "
            f"{list(num_points)} points a level, in {tuple(value.shape)} values of maps {list(spatial_shapes)}"
        )
