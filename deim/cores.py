"""CPU cores available to a process, and the number of torch threads that run on them."""

import logging
import os
import time
from typing import Any

import psutil
import torch
from torch import nn

logger = logging.getLogger("detectron2.deim")

# If the user sets one of these, the number of threads stays fixed: bit-identical results require it.
_THREAD_COUNT_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_INTERVAL_SECONDS = 1.0


def available_cores() -> list[int]:
    """Return the indices of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def limit_threads_to_free_cores(model: nn.Module) -> None:
    """Make a model on the CPU use only the cores that other processes leave free.

    The threads of a process wait for each other, so one core occupied by another process delays all of them. On two
    cores with one busy process, two threads are several times slower than one (docs/benchmarks.md). A forward pre-hook
    sets the number of torch threads to the number of free cores, at most once per second.

    Does nothing if the user sets ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS``.
    """
    if torch.get_num_threads() > 1 and not any(name in os.environ for name in _THREAD_COUNT_VARIABLES):
        model.register_forward_pre_hook(_ThreadCountHook())


class _ThreadCountHook:
    """A forward pre-hook that sets the number of torch threads to the number of free cores."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._max_threads = torch.get_num_threads()
        self._time, self._busy = time.monotonic(), self._busy_seconds()
        self._has_logged = False

    def __call__(self, *_: Any) -> None:
        elapsed = time.monotonic() - self._time
        if elapsed < _INTERVAL_SECONDS:
            return
        busy = self._busy_seconds()
        free = len(available_cores()) - max(busy - self._busy, 0.0) / elapsed
        self._time, self._busy = self._time + elapsed, busy
        threads = min(max(round(free), 1), self._max_threads)
        if threads == torch.get_num_threads():
            return
        torch.set_num_threads(threads)
        if not self._has_logged:
            self._has_logged = True
            logger.info(
                f"Other processes are using the CPU: reducing the number of threads from {self._max_threads} to "
                f"{threads} until they stop (set OMP_NUM_THREADS for a fixed number)"
            )

    def _busy_seconds(self) -> float:
        """Return for how many seconds, since a fixed time, other processes have used this process's cores."""
        own = self._process.cpu_times()
        core_times = psutil.cpu_times(percpu=True)
        # On Linux, core indices count offline cores, which have no row here: skip indices out of range.
        cores = [core_times[core] for core in available_cores() if core < len(core_times)]
        return sum(map(_busy_time, cores)) - own.user - own.system


def _busy_time(times: Any) -> float:
    # Linux includes guest time in user time.
    excluded = ("idle", "iowait", "guest", "guest_nice")
    return sum(value for name, value in times._asdict().items() if name not in excluded)
