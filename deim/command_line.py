"""How command-line tools end."""

import sys
from collections.abc import Callable

from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from deim.errors import DeimError
from deim.processes import PREEMPTED


def run_tool(action: Callable[[], None]) -> int:
    """Run a tool; the exit status.

    Errors that the user can mend become one message on standard error and status 2, also when one
    of several processes raised them. Others keep their traceback. Processes that ended since they were told to end make
    the status :data:`deim.processes.PREEMPTED`.
    """
    try:
        action()
    except DeimError as error:
        return _report(str(error))
    except ProcessRaisedException as error:
        lines = str(error).rstrip().splitlines()
        mendable = tuple(f"{c.__module__}.{c.__name__}: " for c in _subclasses(DeimError))
        for number, line in enumerate(lines):
            for prefix in mendable:
                if line.startswith(prefix):
                    return _report("\n".join([line.removeprefix(prefix), *lines[number + 1 :]]))
        raise
    except ProcessExitedException as error:
        if error.exit_code == PREEMPTED:
            return PREEMPTED
        if error.signal_name is None:
            raise
        return _report(
            f"process {error.error_index} of the run was ended by {error.signal_name}: by the system, if memory ran out"
        )
    return 0


def _subclasses(cls: type[Exception]) -> list[type[Exception]]:
    found = [cls]
    for child in cls.__subclasses__():
        found.extend(_subclasses(child))
    return found


def _report(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
