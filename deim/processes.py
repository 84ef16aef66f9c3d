"""Processes of a run: how they are started, and how long they live."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# Exit status of a run that saved a checkpoint and ended since it was asked to: EX_TEMPFAIL of sysexits.h, "try again".
PREEMPTED = 75
# What ends a run with a checkpoint: sent by schedulers before they take the machine away.
# Windows has the first of them alone.
PREEMPTION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def deim_command(command: str, *arguments: str) -> list[str]:
    """Return the words that run a subcommand of ``deim`` with this Python; see :func:`deim_environment`."""
    return [sys.executable, "-m", "deim", command, *arguments]


def deim_environment() -> dict[str, str]:
    """Return the environment of this process, with this ``deim`` importable from any folder."""
    folder = str(Path(__file__).resolve().parents[1])
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def end_with_parent(grace: float = 0.0) -> None:
    """From now on, end this process ``grace`` seconds after the one that started it has ended, in whatever way.

    Nothing else is sure to do so: a worker that hands over a large batch waits for a reader for ever, and a rank for
    the others.
    """
    _watch(lambda parent: time.sleep(0.5), grace)


def obey_parent_alone() -> None:
    """Leave all signals to the parent process, and end with it, from now on.

    Schedulers signal all processes of a run, but the main one needs the others until the end of an iteration.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in PREEMPTION_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigtimedwait"):  # macOS and Windows
        end_with_parent()
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait(parent: int) -> None:
        told = signal.sigtimedwait({signal.SIGTERM}, 0.5)
        if told is not None and told.si_pid == parent:
            os._exit(0)

    _watch(wait)


def _watch(wait: Callable[[int], None], grace: float = 0.0) -> None:
    """End this process once its parent has ended; ``wait`` is called again and again until then."""
    # A fork server is the parent of what it forks, but not the process that asked for it.
    asked_by = multiprocessing.parent_process()
    pid = os.getppid() if asked_by is None or asked_by.pid is None else asked_by.pid
    parent, is_child = psutil.Process(pid), os.getppid() == pid

    def lives() -> bool:
        if not parent.is_running():
            return False
        # A parent that has ended may stay as a zombie. Its children get another parent, except on Windows.
        return os.getppid() == pid if is_child else parent.status() != psutil.STATUS_ZOMBIE

    def watch() -> None:
        while lives():
            wait(pid)
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()


@contextmanager
def forwarded_signals(pids: Callable[[], list[int]]) -> Iterator[None]:
    """Within it, this process hands signals of preemption on to the processes it started, and waits for them."""

    def forward(number: int, frame: object) -> None:
        for pid in pids():
            os.kill(pid, number)

    restore = _take_over(forward)
    try:
        yield
    finally:
        restore()


def _take_over(handler: Callable[[int, object], None]) -> Callable[[], None]:
    """Handle signals of preemption; what this gives leaves them to whom they were left before."""
    former = {number: signal.signal(number, handler) for number in PREEMPTION_SIGNALS}

    def restore() -> None:
        for number, before in former.items():
            signal.signal(number, before)

    return restore


class SignalNotice:
    """Notes signals of preemption for the main thread to look at, instead of ending the process.

    Attributes:
        received: the number of the first such signal; None before.
        close: leaves signals to whom they were left before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.close = _take_over(self._note)

    def _note(self, number: int, frame: object) -> None:
        self.received = self.received or number
