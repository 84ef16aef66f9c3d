"""Simulation of Windows for our own modules: modules and names of POSIX are missing.

Python imports this file automatically if its folder is on ``PYTHONPATH``, in every process that a run starts. Other
libraries still see the real system.
"""

import builtins
import multiprocessing
from types import ModuleType
from typing import Any

# detectron2 and detrex are the bundled subsets here.
OUR_PACKAGES = ("deim", "detectron2", "detrex")
MISSING_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "posix", "triton"}
MISSING_NAMES = {
    "signal": {"SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "sigtimedwait", "sigwait", "pthread_sigmask"},
    "os": {"fork", "forkpty", "getuid", "getpgid", "killpg", "memfd_create", "mkfifo", "sched_getaffinity", "setsid",
           "sysconf", "uname"},
    "multiprocessing.reduction": {"DupFd"},
}  # fmt: skip

_import = builtins.__import__


class ModuleWithoutNames(ModuleType):
    """A module that lacks some names."""

    def __init__(self, module: ModuleType, names: set[str]):
        super().__init__(module.__name__)
        self.__dict__.update({name: value for name, value in vars(module).items() if name not in names})


_reduced_modules = {
    name: ModuleWithoutNames(_import(name, fromlist=["x"]), names) for name, names in MISSING_NAMES.items()
}


def _import_as_on_windows(
    name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
) -> ModuleType:
    importer = (globals or {}).get("__name__", "").partition(".")[0]
    if importer not in OUR_PACKAGES or level:
        return _import(name, globals, locals, fromlist, level)
    if name.partition(".")[0] in MISSING_MODULES:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = _import(name, globals, locals, fromlist, level)
    return _reduced_modules.get(name if fromlist else name.partition(".")[0], module)


builtins.__import__ = _import_as_on_windows
multiprocessing.set_start_method("spawn")
