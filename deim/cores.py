"""The processor cores that a process may use, and how many threads of torch run on them."""

import logging
import os
import time
from typing import Any

import psutil
import torch
from torch import nn

logger = logging.getLogger("detectron2.deim")

# A user who sets one of these decides; results that repeat to the bit need a fixed number of threads.
_DECIDED_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_INTERVAL_SECONDS = 1.0


def available_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share_cores(model: nn.Module) -> None:
    """Make a model on a CPU use only the cores that other processes leave free, from now on.

    Threads of one process wait for each other. If another process holds one of their cores, all of them wait for its
    turn: two threads on two cores are several times slower than one, beside one busy process (docs/benchmarks.md).
    Before a forward pass, but at most once in a second, the number of threads of torch follows the free cores.

    Nothing changes where the user sets ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS``.
    """
    if torch.get_num_threads() > 1 and not any(name in os.environ for name in _DECIDED_BY):
        model.register_forward_pre_hook(_SharedCores())


class _SharedCores:
    """A forward pre-hook that sets the number of threads of torch to that of the free cores."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._most = torch.get_num_threads()
        self._time, self._busy = time.monotonic(), self._busy_seconds()
        self._told = False

    def __call__(self, *_: Any) -> None:
        passed = time.monotonic() - self._time
        if passed < _INTERVAL_SECONDS:
            return
        busy = self._busy_seconds()
        free = len(available_cores()) - max(busy - self._busy, 0.0) / passed
        self._time, self._busy = self._time + passed, busy
        threads = min(max(round(free), 1), self._most)
        if threads == torch.get_num_threads():
            return
        torch.set_num_threads(threads)
        if not self._told:
            self._told = True
            logger.info(
                f"Other processes use the CPU: computing with {threads} of {self._most} threads while they do "
                "(OMP_NUM_THREADS keeps the number fixed)"
            )

    def _busy_seconds(self) -> float:
        """Seconds that other processes have used the cores of this one, since some point in the past."""
        own = self._process.cpu_times()
        every = psutil.cpu_times(percpu=True)
        # Linux numbers cores that are offline as well; then the numbers do not lead to the right rows.
        cores = [every[core] for core in available_cores() if core < len(every)]
        return sum(map(_in_use, cores)) - own.user - own.system


def _in_use(times: Any) -> float:
    # Linux counts guest time as user time as well.
    left_out = ("idle", "iowait", "guest", "guest_nice")
    return sum(value for name, value in times._asdict().items() if name not in left_out)
