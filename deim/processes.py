"""Process lifetime: start commands, exit with the parent, forward preemption signals."""

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

# Exit status of a run that saved a checkpoint and stopped on request: EX_TEMPFAIL of sysexits.h, "try again".
PREEMPTED_EXIT_STATUS = 75
# Signals that schedulers send before they reclaim the machine; the run saves a checkpoint and stops.
# Windows has only SIGTERM.
PREEMPTION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def deim_command(command: str, *arguments: str) -> list[str]:
    """Return the command line of a ``deim`` subcommand with this Python; use it with :func:`deim_environment`."""
    return [sys.executable, "-m", "deim", command, *arguments]


def child_command(command: str, *arguments: str) -> list[str]:
    """Return a command line as :func:`deim_command` whose process exits when its parent does, however that ends."""
    return [sys.executable, "-c", _RUN_AS_CHILD, command, *arguments]


_RUN_AS_CHILD = (
    "import runpy; from deim.processes import exit_with_parent; exit_with_parent(); "
    "runpy.run_module('deim', run_name='__main__', alter_sys=True)"
)


def deim_environment() -> dict[str, str]:
    """Return a copy of the environment in which this ``deim`` can be imported from any folder."""
    folder = str(Path(__file__).resolve().parents[1])
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def exit_with_parent(grace: float = 0.0) -> None:
    """Exit this process ``grace`` seconds after its parent process ends, for whatever reason.

    Otherwise, two kinds of processes remain after their parent has ended: a worker that is blocked on sending a large
    batch to its parent, and a rank that is blocked in a collective.
    """
    _start_parent_watcher(lambda parent: time.sleep(0.5), grace)


def ignore_signals_except_from_parent() -> None:
    """Ignore preemption and interrupt signals, except SIGTERM from the parent process, and exit with the parent.

    Schedulers signal all processes of a run, but a data loader worker must deliver batches until its rank stops.
    On systems without ``sigtimedwait`` (macOS, Windows), SIGTERM from any process ends this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in PREEMPTION_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigtimedwait"):  # macOS and Windows
        exit_with_parent()
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait(parent: int) -> None:
        signal_info = signal.sigtimedwait({signal.SIGTERM}, 0.5)
        if signal_info is not None and signal_info.si_pid == parent:
            os._exit(0)

    _start_parent_watcher(wait)


def _start_parent_watcher(wait: Callable[[int], None], grace: float = 0.0) -> None:
    """Start a daemon thread that exits this process ``grace`` seconds after its parent ends.

    Until then, the thread calls ``wait`` with the parent's process id in a loop.
    """
    # A process started by a fork server is a child of the server, not of the process that requested it.
    requester = multiprocessing.parent_process()
    pid = os.getppid() if requester is None or requester.pid is None else requester.pid
    parent, is_child = psutil.Process(pid), os.getppid() == pid

    def is_parent_alive() -> bool:
        if not parent.is_running():
            return False
        # An ended parent that remains as a zombie counts as running. A child of it sees that its own parent has changed
        # (except on Windows, which has no zombies). Another process checks the status of the parent.
        return os.getppid() == pid if is_child else parent.status() != psutil.STATUS_ZOMBIE

    def watch() -> None:
        while is_parent_alive():
            wait(pid)
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, name="exit_with_parent", daemon=True).start()


@contextmanager
def forward_signals(pids: Callable[[], list[int]]) -> Iterator[None]:
    """Forward preemption signals to child processes within the context, instead of handling them.

    Args:
        pids: function that returns the process ids of the children.
    """

    def forward(number: int, frame: object) -> None:
        for pid in pids():
            os.kill(pid, number)

    restore = _install_handler(forward)
    try:
        yield
    finally:
        restore()


def _install_handler(handler: Callable[[int, object], None]) -> Callable[[], None]:
    """Install ``handler`` for preemption signals. Return a function that restores the previous handlers."""
    previous = {number: signal.signal(number, handler) for number in PREEMPTION_SIGNALS}

    def restore() -> None:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)

    return restore


class PreemptionRecorder:
    """Signal handler that records the first preemption signal instead of ending the process.

    Attributes:
        received: number of the first preemption signal, or None before it arrives.
        restore_handlers: function that restores the previous handlers.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.restore_handlers = _install_handler(self._record)

    def _record(self, number: int, frame: object) -> None:
        self.received = self.received or number
