"""Reuse of freed memory when training on a CPU."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# options of glibc's mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Upper limits of glibc's dynamic adjustment: DEFAULT_MMAP_THRESHOLD_MAX, and twice that.
_DEFAULT_THRESHOLDS = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}
_RAISED_THRESHOLDS = dict.fromkeys(_DEFAULT_THRESHOLDS, 2**31 - 1)


@contextmanager
def keep_freed_memory(device: torch.device) -> Iterator[None]:
    """Within this context, keep freed blocks below 2 GiB in the process if ``device`` is a CPU.

    By default glibc's malloc returns blocks of more than 32 MiB to the system at once, and the system has to map and
    clear the pages of every large activation again. Kept blocks are returned when the context exits. No effect
    without glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    _set_thresholds(libc, _RAISED_THRESHOLDS)
    try:
        yield
    finally:
        _set_thresholds(libc, _DEFAULT_THRESHOLDS)
        libc.malloc_trim(0)


def _set_thresholds(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)
