"""Memory that training on a CPU frees, to ask for it again in the next layer."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# options of glibc's mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# what its malloc comes to by itself (DEFAULT_MMAP_THRESHOLD_MAX, and twice that)
_USUAL = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}
_KEPT = dict.fromkeys(_USUAL, 2**31 - 1)


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Within it the process keeps, if ``device`` is a CPU, the blocks below 2 GiB that it frees.

    glibc's malloc gives those of more than 32 MiB back to the system at once: each activation of that size is made of
    pages that the system clears and maps one by one. Without glibc nothing changes. Afterwards kept blocks are given back.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    _set(libc, _KEPT)
    try:
        yield
    finally:
        _set(libc, _USUAL)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)
