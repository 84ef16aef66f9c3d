"""How command lines end."""

import importlib
import sys
from collections.abc import Callable

from deim.errors import DeimError
from deim.processes import PREEMPTED


def run_tool(action: Callable[[], int | None]) -> int:
    """Run an action and return the exit status of the process.

    An error that the user can correct becomes one message on standard error and status 2, also when it was raised in
    one of several processes. Other errors keep their traceback. A run that a signal ended after it saved a checkpoint
    has the status :data:`deim.processes.PREEMPTED`.

    Args:
        action: does the work; returns an exit status, or None for 0.
    """
    try:
        return action() or 0
    except DeimError as error:
        return _report(str(error))
    except Exception as error:
        status = _status_of_process(error)
        if status is None:
            raise
        return status


def _status_of_process(error: Exception) -> int | None:
    """Return the exit status for the failure of one of several processes; None for other errors."""
    spawn = importlib.import_module("torch.multiprocessing")
    if isinstance(error, spawn.ProcessRaisedException):
        return _status_of_traceback(str(error))
    if not isinstance(error, spawn.ProcessExitedException):
        return None
    if error.exit_code == PREEMPTED:
        return PREEMPTED
    if error.signal_name is None:
        return None
    return _report(
        f"process {error.error_index} of the run was ended by {error.signal_name}: by the system, if memory ran out"
    )


def _status_of_traceback(text: str) -> int | None:
    lines = text.rstrip().splitlines()
    mendable = tuple(f"{c.__module__}.{c.__name__}: " for c in _subclasses(DeimError))
    for number, line in enumerate(lines):
        for prefix in mendable:
            if line.startswith(prefix):
                return _report("\n".join([line.removeprefix(prefix), *lines[number + 1 :]]))
    return None


def _subclasses(cls: type[Exception]) -> list[type[Exception]]:
    found = [cls]
    for child in cls.__subclasses__():
        found.extend(_subclasses(child))
    return found


def _report(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
