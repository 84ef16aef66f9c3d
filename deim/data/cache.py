"""Cache of decoded images in memory shared by all worker processes."""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil

from deim.data.image import ImageReader, read_image
from deim.errors import ConfigError

try:
    import fcntl
    from multiprocessing.reduction import DupFd
except ImportError:  # Windows
    fcntl = DupFd = None  # type: ignore[assignment]

_GIGABYTE = 2**30
# Columns of the table: two halves of the key, offset of the pixels, height and width. The table has one row for every
# _BYTES_PER_ROW bytes of the budget.
_COLUMNS, _BYTES_PER_ROW = 5, 2**15
# Maximum number of rows to probe; if all are taken, the image is not cached.
_MAX_PROBES = 32


class ImageCache:
    """Image reader that caches decoded images. Samples are the same with and without the cache.

    Images are cached in the order in which they are first read, until the budget is used up; further images are decoded
    each time. An image decoded at several resolutions is cached once per resolution. Memory is allocated as the cache
    fills, and is freed when the last process that uses it exits. On Linux, it is not part of any file system; on macOS,
    it is a mapped temporary file.

    Args:
        gigabytes: memory budget of this process and its workers, in GiB.
        read: image reader.

    Raises:
        ConfigError: if ``gigabytes`` is not positive or exceeds the memory of the machine, or the platform is not
            supported.
    """

    @staticmethod
    def is_supported() -> bool:
        """Return whether this platform supports the cache; Windows does not."""
        return fcntl is not None and DupFd is not None

    def __init__(self, gigabytes: float, read: ImageReader = read_image):
        if not self.is_supported():
            raise ConfigError("the shared image cache requires POSIX file locks, which this platform does not support")
        machine_gigabytes = psutil.virtual_memory().total / _GIGABYTE
        if not 0 < gigabytes < machine_gigabytes:
            raise ConfigError(
                f"an image cache of {gigabytes} GB is not possible; set dataloader.train.image_cache_gb to less than the "
                f"{machine_gigabytes:.1f} GB of this machine, or to 0 for no cache"
            )
        self.read, self.budget = read, int(gigabytes * _GIGABYTE)
        self._attach(_allocate_shared_memory(self.budget + self._table_bytes))

    @property
    def _num_rows(self) -> int:
        return max(self.budget // _BYTES_PER_ROW, 8)

    @property
    def _table_bytes(self) -> int:
        return (1 + self._num_rows * _COLUMNS) * 8

    def _attach(self, descriptor: int) -> None:
        self._descriptor = descriptor
        shared = mmap.mmap(descriptor, self.budget + self._table_bytes)
        numbers = np.frombuffer(shared, np.int64, 1 + self._num_rows * _COLUMNS)
        self._used, self._table = numbers[:1], numbers[1:].reshape(self._num_rows, _COLUMNS)
        self._pixels = np.frombuffer(shared, np.uint8, self.budget, offset=self._table_bytes)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for spawned workers; only valid while a worker is being started."""
        return {"read": self.read, "budget": self.budget, "file": DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = state.pop("file")
        self.__dict__.update(state)
        self._attach(file.detach())

    @property
    def used_bytes(self) -> int:
        """Size of the cached images in bytes."""
        return int(self._used[0])

    def __call__(self, file_name: str, size: tuple[int, int] | None = None, reduction: int = 1) -> np.ndarray:
        """Read an image; see :func:`deim.data.image.read_image`. Images from the cache are read-only arrays."""
        key = _cache_key(file_name, size, reduction)
        image = self._look_up(key)
        if image is None:
            image = self.read(file_name, size, reduction)
            self._store(key, image)
        return image

    def _look_up(self, key: np.ndarray) -> np.ndarray | None:
        with self._locked():
            row = self._find_row(key)
            if row is None or not row[:2].any():
                return None
            start, height, width = row[2:].tolist()
        image = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        image.flags.writeable = False
        return image

    def _store(self, key: np.ndarray, image: np.ndarray) -> None:
        with self._locked():
            row, start = self._find_row(key), self.used_bytes
            if row is None or row[:2].any() or start + image.size > self.budget:
                return
            self._pixels[start : start + image.size] = image.reshape(-1)
            self._used[0] = start + image.size
            row[2:] = start, *image.shape[:2]
            row[:2] = key  # written last, so that a killed process leaves no partial entry

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the cache; it is released even if the process is killed."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _find_row(self, key: np.ndarray) -> np.ndarray | None:
        """Return the row of a key, or the empty row for it; None if all probed rows are taken."""
        for probe in range(_MAX_PROBES):
            row = self._table[(int(key[0]) + probe) % self._num_rows]
            if (row[:2] == key).all() or not row[:2].any():
                return row
        return None


def _cache_key(file_name: str, size: tuple[int, int] | None, reduction: int) -> np.ndarray:
    """Return a 128-bit hash as (2,) int64, long enough to rule out collisions."""
    return np.frombuffer(
        hashlib.blake2b(repr((file_name, size, reduction)).encode(), digest_size=16).digest(), np.int64
    )


def _allocate_shared_memory(size: int) -> int:
    """Return a file descriptor of ``size`` bytes that processes can share.

    /dev/shm is not used, because containers limit its size. Without ``memfd_create`` (macOS), a temporary file is used.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("deim-images")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
