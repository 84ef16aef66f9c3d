"""How command-line tools end."""

import sys
from collections.abc import Callable

from torch.multiprocessing import ProcessRaisedException

from deim.errors import DeimError


def run_tool(action: Callable[[], None]) -> int:
    """Run a tool; the exit status.

    Errors that the user can mend become one message on standard error and status 2, also when one
    of several processes raised them. Others keep their traceback.
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
    return 0


def _subclasses(cls: type[Exception]) -> list[type[Exception]]:
    found = [cls]
    for child in cls.__subclasses__():
        found.extend(_subclasses(child))
    return found


def _report(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
