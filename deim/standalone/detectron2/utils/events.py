"""Storage of the scalars of a run, and event writers."""

import datetime
import itertools
import json
import logging
import os
import time
from collections import defaultdict
from contextlib import contextmanager
from functools import cached_property

import torch
from detectron2.utils.file_io import PathManager
from fvcore.common.history_buffer import HistoryBuffer

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_ACTIVE: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """Return the storage of the innermost ``with EventStorage(...)`` block.

    Raises:
        AssertionError: if no such block is active.
    """
    if not _ACTIVE:
        raise AssertionError("get_event_storage() has to be called inside a 'with EventStorage(...)' context!")
    return _ACTIVE[-1]


def has_event_storage() -> bool:
    return bool(_ACTIVE)


class EventStorage:
    """The history and the latest value of each scalar of a run."""

    def __init__(self, start_iter=0):
        self._iter = start_iter
        self._buffers: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._newest: dict[str, tuple[float, int]] = {}
        self._smooth: dict[str, bool] = {}
        self._prefix = ""

    @property
    def iter(self):
        return self._iter

    @iter.setter
    def iter(self, val):
        self._iter = int(val)

    def put_scalar(self, name, value, smoothing_hint=True, cur_iter=None):
        """Add a value to the history of a scalar.

        Args:
            name: name of the scalar.
            value: a number.
            smoothing_hint: whether the scalar is noisy, so that writers may show its median.
            cur_iter: iteration of the value; by default the current iteration.

        Raises:
            AssertionError: if ``smoothing_hint`` differs from that of earlier values.
        """
        name, when = self._prefix + name, self._iter if cur_iter is None else cur_iter
        if self._smooth.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"Scalar {name} was put with a different smoothing_hint!")
        self._buffers[name].update(float(value), when)
        self._newest[name] = (float(value), when)

    def put_scalars(self, *, smoothing_hint=True, cur_iter=None, **kwargs):
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def history(self, name):
        """Return the :class:`HistoryBuffer` of a scalar. Raises KeyError if the scalar does not exist."""
        if name not in self._buffers:
            raise KeyError(f"No history metric available for {name}!")
        return self._buffers[name]

    def histories(self):
        return self._buffers

    def latest(self):
        """Return {name: (latest value, its iteration)}."""
        return self._newest

    def smoothing_hints(self):
        """Return {name: smoothing hint}."""
        return self._smooth

    def count_samples(self, name, window_size=20):
        """Return the number of values of ``name`` in the last ``window_size`` iterations."""
        iterations = [when for _, when in self._buffers[name].values()]
        recent = itertools.takewhile(lambda when: when > iterations[-1] - window_size, reversed(iterations))
        return sum(1 for _ in recent)

    def latest_with_smoothing_hint(self, window_size=20):
        """Return {name: (value, iteration)}, for noisy scalars with the median over ``window_size`` iterations."""
        smoothed = {}
        for name, (value, when) in self._newest.items():
            if self._smooth[name]:
                value = self._buffers[name].median(self.count_samples(name, window_size))
            smoothed[name] = (value, when)
        return smoothed

    def step(self):
        self._iter += 1

    @contextmanager
    def name_scope(self, name):
        """Prefix the names of scalars with ``name/`` within the context."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def __enter__(self):
        _ACTIVE.append(self)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        _ACTIVE.remove(self)


class EventWriter:
    """Base class of writers of the scalars of the active storage."""

    def write(self):
        raise NotImplementedError

    def close(self):
        """Release resources after the last :meth:`write`."""


def _newer_than(storage, window_size, last):
    """Return (name, value, iteration) of the scalars after iteration ``last``, and their newest iteration."""
    fresh = [
        (name, value, when)
        for name, (value, when) in storage.latest_with_smoothing_hint(window_size).items()
        if when > last
    ]
    return fresh, max((when for _, _, when in fresh), default=last)


class JSONWriter(EventWriter):
    """Writer that appends one line with a JSON object per iteration to ``json_file``."""

    def __init__(self, json_file, window_size=20):
        self._file = PathManager.open(json_file, "a")
        self._window = window_size
        self._written = -1

    def write(self):
        fresh, self._written = _newer_than(get_event_storage(), self._window, self._written)
        lines: dict[int, dict] = defaultdict(dict)
        for name, value, when in fresh:
            lines[when][name] = value
        for when, scalars in lines.items():
            self._file.write(json.dumps({**scalars, "iteration": when}, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self):
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writer of TensorBoard event files in ``log_dir``."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        self._settings = {"log_dir": log_dir, **kwargs}
        self._window = window_size
        self._written = -1

    @cached_property
    def _writer(self):
        # Import tensorboard only when needed: the import is slow, and evaluation does not write.
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._settings)

    def write(self):
        fresh, self._written = _newer_than(get_event_storage(), self._window, self._written)
        for name, value, when in fresh:
            self._writer.add_scalar(name, value, when)

    def close(self):
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Writer that logs one line with ETA, losses, times, learning rate and memory."""

    def __init__(self, max_iter=None, window_size=20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._previous: tuple[int, float] | None = None

    def _eta(self, storage) -> str:
        """Return the remaining time, from the median iteration time or the time since the last line; "" if unknown."""
        if self._max_iter is None:
            return ""
        remaining, per_iter = self._max_iter - storage.iter - 1, None
        try:
            per_iter = storage.history("time").median(1000)
            storage.put_scalar("eta_seconds", per_iter * remaining, smoothing_hint=False)
        except KeyError:
            now = time.perf_counter()
            if self._previous is not None and storage.iter > self._previous[0]:
                per_iter = (now - self._previous[1]) / (storage.iter - self._previous[0])
            self._previous = (storage.iter, now)
        if per_iter is None:
            return ""
        return f"eta: {datetime.timedelta(seconds=int(per_iter * remaining))}  "

    def write(self):
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # nothing to report after the last iteration

        def format_scalar(name, template, pick):
            return template.format(pick(storage.history(name))) if name in storage.histories() else ""

        def medians(substring):
            return "  ".join(
                f"{name}: {buffer.median(storage.count_samples(name, self._window_size)):.4g}"
                for name, buffer in storage.histories().items()
                if substring in name
            )

        count = storage.count_samples("data_time", self._window_size) if "data_time" in storage.histories() else 0
        pieces = [
            f" {self._eta(storage)}iter: {storage.iter}  {medians('loss')}  {medians('[metric]')}  ",
            format_scalar("time", "time: {:.4f}  ", lambda h: h.global_avg()),
            format_scalar("time", "last_time: {:.4f}  ", lambda h: h.latest()),
            format_scalar("data_time", "data_time: {:.4f}  ", lambda h: h.avg(count)),
            format_scalar("data_time", "last_data_time: {:.4f}  ", lambda h: h.latest()),
            " lr: " + (format_scalar("lr", "{:.5g}", lambda h: h.latest()) or "N/A") + "  ",
        ]
        if torch.cuda.is_available():
            pieces.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("".join(pieces))
