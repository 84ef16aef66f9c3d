"""Console and file logging in detectron2's format."""

import atexit
import functools
import logging
import os
import sys
import time

from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from termcolor import colored

__all__ = ["create_small_table", "log_every_n_seconds", "setup_logger"]


_MARKED_LEVELS = {
    logging.WARNING: ("WARNING", {"color": "red", "attrs": ["blink"]}),
    logging.ERROR: ("ERROR", {"color": "red", "attrs": ["blink", "underline"]}),
    logging.CRITICAL: ("ERROR", {"color": "red", "attrs": ["blink", "underline"]}),
}


class _ColorfulFormatter(logging.Formatter):
    """Formatter that prefixes warnings and errors with their level in color."""

    def __init__(self, *args, root_name: str, abbrev_name: str, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._root, self._short = root_name + ".", abbrev_name + "." if abbrev_name else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.name = record.name.replace(self._root, self._short)
        message = super().formatMessage(record)
        if record.levelno not in _MARKED_LEVELS:
            return message
        level_name, style = _MARKED_LEVELS[record.levelno]
        return f"{colored(level_name, **style)} {message}"


@functools.cache
def setup_logger(
    output=None, distributed_rank=0, *, color=True, name="detectron2", abbrev_name=None, enable_propagation=False,
    configure_stdout=True,
):  # fmt: skip
    """Set up a logger that writes to the console on rank 0, and to a file on every rank.

    Args:
        output: a folder for ``log.txt``, or a file ``.txt`` or ``.log``; None for only the console.
        distributed_rank: rank of this process. Ranks above 0 write to ``<file>.rank<N>``.
        color: whether to color the console output.
        name: name of the logger.
        abbrev_name: short form of ``name`` in messages; by default "d2" for detectron2.
        enable_propagation: whether to propagate messages to the parent logger.
        configure_stdout: whether to write to the console at all.

    Returns:
        The logger. A second call with the same arguments adds no handlers.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    abbrev_name = ("d2" if name == "detectron2" else name) if abbrev_name is None else abbrev_name
    layout, dates = "%(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"
    plain = logging.Formatter(f"[%(asctime)s] {layout}", datefmt=dates)

    if configure_stdout and distributed_rank == 0:
        console = logging.StreamHandler(stream=sys.stdout)
        console.setLevel(logging.DEBUG)
        if color:
            prefix = colored("[%(asctime)s %(name)s]: ", "green")
            console.setFormatter(
                _ColorfulFormatter(prefix + "%(message)s", datefmt=dates, root_name=name, abbrev_name=abbrev_name)
            )
        else:
            console.setFormatter(plain)
        logger.addHandler(console)

    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path = f"{path}.rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(path))
        to_file = logging.StreamHandler(_open_log(path))
        to_file.setLevel(logging.DEBUG)
        to_file.setFormatter(plain)
        logger.addHandler(to_file)
    return logger


@functools.cache
def _open_log(path: str):
    """Open a log file for appending. Loggers of the same file share one stream, so that their lines do not mix."""
    stream = PathManager.open(path, "a")
    atexit.register(stream.close)
    return stream


_LAST_LOGGED: dict = {}


def log_every_n_seconds(lvl, msg, n=1, *, name=None):
    """Log a message, unless the calling line has already logged within the last ``n`` seconds.

    Args:
        lvl: level of the message.
        msg: the message.
        n: interval in seconds.
        name: name of the logger; by default the module of the caller.
    """
    frame = sys._getframe(1)
    call_site = (frame.f_code.co_filename, frame.f_lineno)
    now = time.time()
    if now - _LAST_LOGGED.get(call_site, -float("inf")) >= n:
        module = frame.f_globals["__name__"]
        logging.getLogger(name or ("detectron2" if module == "__main__" else module)).log(lvl, msg)
        _LAST_LOGGED[call_site] = now


def create_small_table(small_dict):
    """Return a table with one row.

    Args:
        small_dict: {column header: number}.

    Raises:
        ValueError: if ``small_dict`` is empty.
    """
    if not small_dict:
        raise ValueError("create_small_table needs at least one number")
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict.keys()),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
