"""Exit statuses and error messages of the commands."""

import importlib
import sys
from collections.abc import Callable

from deim.errors import DeimError
from deim.processes import PREEMPTED_EXIT_STATUS


def run_tool(action: Callable[[], int | None]) -> int:
    """Run a command and return the exit status of the process.

    A :class:`~deim.errors.DeimError`, also if raised in a rank, is printed to standard error as one message and the
    exit status is 2. Other errors keep their traceback. A run that was ended by a signal after saving a checkpoint
    returns :data:`deim.processes.PREEMPTED_EXIT_STATUS`.

    Args:
        action: runs the command; returns an exit status, or None for 0.
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
    """Return the exit status for an error raised by a rank; None for other errors."""
    spawn = importlib.import_module("torch.multiprocessing")
    if isinstance(error, spawn.ProcessRaisedException):
        return _status_of_traceback(str(error))
    if not isinstance(error, spawn.ProcessExitedException):
        return None
    if error.exit_code == PREEMPTED_EXIT_STATUS:
        return PREEMPTED_EXIT_STATUS
    if error.signal_name is None:
        return None
    hint = ". The system sends this signal when memory runs out" if error.signal_name == "SIGKILL" else ""
    return _report(f"rank {error.error_index} was killed by {error.signal_name}{hint}")


def _status_of_traceback(text: str) -> int | None:
    """Report the last DeimError in a traceback, since earlier ones are its causes.

    Returns:
        the exit status; None if the traceback contains no DeimError.
    """
    lines = text.rstrip().splitlines()
    prefixes = tuple(f"{c.__module__}.{c.__name__}: " for c in _subclasses(DeimError))
    for number, line in reversed(list(enumerate(lines))):
        for prefix in prefixes:
            if line.startswith(prefix):
                return _report("\n".join([line.removeprefix(prefix), *lines[number + 1 :]]))
    return None


def _subclasses(cls: type[Exception]) -> list[type[Exception]]:
    classes = [cls]
    for child in cls.__subclasses__():
        classes.extend(_subclasses(child))
    return classes


def _report(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
