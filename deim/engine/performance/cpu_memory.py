"""Reuse of freed memory when training on a CPU."""

import ctypes
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger("detectron2.deim")

# options of glibc's mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_RAISED_THRESHOLD = 2**31 - 1
# Setting a threshold ends glibc's dynamic adjustment of both, so the initial state cannot be restored. These values are
# the upper limits of the adjustment on 64-bit systems.
_RESTORED_MMAP_THRESHOLD, _RESTORED_TRIM_THRESHOLD = 32 * 2**20, 64 * 2**20


@contextmanager
def keep_freed_memory(device: torch.device) -> Iterator[None]:
    """Within this context, keep freed blocks below 2 GiB in the process if ``device`` is a CPU.

    By default glibc's malloc returns blocks of more than 32 MiB to the system at once, and the system has to map and
    clear the pages of every large activation again. Kept blocks are returned when the context exits. Older versions of
    glibc keep only blocks of up to 32 MiB. No effect without glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if libc is None or not hasattr(libc, "mallopt") or not _raise_thresholds(libc):
        yield
        return
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _RESTORED_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, _RESTORED_TRIM_THRESHOLD)
        libc.malloc_trim(0)


def _raise_thresholds(libc: ctypes.CDLL) -> bool:
    """Raise both thresholds as far as glibc accepts. Return False if glibc keeps its own thresholds."""
    # Older versions of glibc reject values above the upper limit of the adjustment.
    if not any(libc.mallopt(_MMAP_THRESHOLD, value) for value in (_RAISED_THRESHOLD, _RESTORED_MMAP_THRESHOLD)):
        # Raising only the trim threshold would end the adjustment, and leave the other threshold at 128 KiB.
        logger.info(
            f"malloc rejects M_MMAP_THRESHOLD={_RESTORED_MMAP_THRESHOLD}: freed memory of large tensors is returned to the "
            "system, so training on this CPU is slower"
        )
        return False
    libc.mallopt(_TRIM_THRESHOLD, _RAISED_THRESHOLD)
    return True
