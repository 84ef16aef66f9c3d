"""Decoded images, kept in memory that all worker processes share."""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil

from deim.data.image import Reader, read_image
from deim.errors import ConfigError

try:
    import fcntl
    from multiprocessing.reduction import DupFd
except ImportError:  # Windows
    fcntl = DupFd = None  # type: ignore[assignment]

_GIGABYTE = 2**30
# Rows of the table: two halves of the key, where the pixels begin, height and width. A row for every so many bytes.
_COLUMNS, _BYTES_PER_ROW = 5, 2**15
# An image that finds so many rows in a row taken is not kept.
_MAX_STEPS = 32


class ImageCache:
    """Reads images, and keeps them as they were decoded, so that samples are the same with it and without.

    Images are kept until ``gigabytes`` are full, in the order in which they are first seen; then the others are read
    anew each time. An image that is decoded at several resolutions is kept at each. The memory is taken as it fills,
    belongs to no file system, and is gone with the last process that uses it.

    Args:
        gigabytes: budget of this process and its workers.
        read: what decodes.

    Raises:
        ConfigError: ``gigabytes`` is not positive, or more than the machine has, or the system is not supported.
    """

    @staticmethod
    def is_supported() -> bool:
        """Return whether this system has what the cache needs; Windows has not."""
        return fcntl is not None and DupFd is not None

    def __init__(self, gigabytes: float, read: Reader = read_image):
        if not self.is_supported():
            raise ConfigError("an image cache that processes share needs file locks of POSIX, which this system lacks")
        installed = psutil.virtual_memory().total / _GIGABYTE
        if not 0 < gigabytes < installed:
            raise ConfigError(
                f"an image cache of {gigabytes} GB: give it more than 0 and less than the {installed:.1f} GB of this machine"
            )
        self.read, self.budget = read, int(gigabytes * _GIGABYTE)
        self._attach(_shared_file(self.budget + self._table_bytes))

    @property
    def _rows(self) -> int:
        return max(self.budget // _BYTES_PER_ROW, 8)

    @property
    def _table_bytes(self) -> int:
        return (1 + self._rows * _COLUMNS) * 8

    def _attach(self, descriptor: int) -> None:
        self._descriptor = descriptor
        shared = mmap.mmap(descriptor, self.budget + self._table_bytes)
        numbers = np.frombuffer(shared, np.int64, 1 + self._rows * _COLUMNS)
        self._used, self._table = numbers[:1], numbers[1:].reshape(self._rows, _COLUMNS)
        self._pixels = np.frombuffer(shared, np.uint8, self.budget, offset=self._table_bytes)

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are not forked; only while they are started."""
        return {"read": self.read, "budget": self.budget, "file": DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = state.pop("file")
        self.__dict__.update(state)
        self._attach(file.detach())

    @property
    def used_bytes(self) -> int:
        """What the images that are kept take."""
        return int(self._used[0])

    def __call__(self, file_name: str, size: tuple[int, int] | None = None, reduction: int = 1) -> np.ndarray:
        """See :func:`deim.data.image.read_image`. What comes from the cache cannot be written to."""
        key = _key(file_name, size, reduction)
        kept = self._find(key)
        if kept is None:
            kept = self.read(file_name, size, reduction)
            self._keep(key, kept)
        return kept

    def _find(self, key: np.ndarray) -> np.ndarray | None:
        with self._alone():
            row = self._row_of(key)
            if row is None or not row[:2].any():
                return None
            start, height, width = row[2:].tolist()
        image = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        image.flags.writeable = False
        return image

    def _keep(self, key: np.ndarray, image: np.ndarray) -> None:
        with self._alone():
            row, start = self._row_of(key), self.used_bytes
            if row is None or row[:2].any() or start + image.size > self.budget:
                return
            self._pixels[start : start + image.size] = image.reshape(-1)
            self._used[0] = start + image.size
            row[2:] = start, *image.shape[:2]
            row[:2] = key  # last: whoever is killed before has kept nothing

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process at a time; one that is killed in here lets the next in."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _row_of(self, key: np.ndarray) -> np.ndarray | None:
        """The row of a key, or the empty one where it would be; None where all are taken."""
        for step in range(_MAX_STEPS):
            row = self._table[(int(key[0]) + step) % self._rows]
            if (row[:2] == key).all() or not row[:2].any():
                return row
        return None


def _key(file_name: str, size: tuple[int, int] | None, reduction: int) -> np.ndarray:
    """(2,) int64, of 128 bits: two different images do not share it."""
    return np.frombuffer(
        hashlib.blake2b(repr((file_name, size, reduction)).encode(), digest_size=16).digest(), np.int64
    )


def _shared_file(size: int) -> int:
    """A descriptor of memory that other processes can have too; on /dev/shm it would be limited in containers."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("deim-images")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
