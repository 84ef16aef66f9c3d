"""Console and file logging in detectron2's format."""

import functools
import logging
import os
import sys
import time

from tabulate import tabulate
from termcolor import colored

__all__ = ["create_small_table", "log_every_n_seconds", "setup_logger"]


_MARKED_LEVELS = {
    logging.WARNING: ("WARNING", {"color": "red", "attrs": ["blink"]}),
    logging.ERROR: ("ERROR", {"color": "red", "attrs": ["blink", "underline"]}),
    logging.CRITICAL: ("ERROR", {"color": "red", "attrs": ["blink", "underline"]}),
}


class _ColorfulFormatter(logging.Formatter):
    """Prefixes warnings and errors with their level in colour."""

    def __init__(self, *args, root_name: str, abbrev_name: str, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._root, self._short = root_name + ".", abbrev_name + "." if abbrev_name else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.name = record.name.replace(self._root, self._short)
        message = super().formatMessage(record)
        if record.levelno not in _MARKED_LEVELS:
            return message
        word, style = _MARKED_LEVELS[record.levelno]
        return f"{colored(word, **style)} {message}"


@functools.cache
def setup_logger(
    output=None, distributed_rank=0, *, color=True, name="detectron2", abbrev_name=None, enable_propagation=False,
    configure_stdout=True,
):  # fmt: skip
    """Give the logger ``name`` a console handler (rank 0) and a ``log.txt`` (every rank).

    Args:
        output: a folder or a ``.txt``/``.log`` file to log to; ``None`` for the console alone.
        distributed_rank: ranks above 0 write to ``<file>.rank<N>`` and stay off the console.
        abbrev_name: short form of ``name`` in messages; ``"d2"`` for detectron2.

    Returns:
        the logger.
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
        is_file = str(output).endswith((".txt", ".log"))
        path = str(output) if is_file else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path = f"{path}.rank{distributed_rank}"
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        to_file = logging.FileHandler(path)
        to_file.setLevel(logging.DEBUG)
        to_file.setFormatter(plain)
        logger.addHandler(to_file)
    return logger


_LAST_LOGGED: dict = {}


def log_every_n_seconds(lvl, msg, n=1, *, name=None):
    """Log ``msg`` unless this place in the code has logged within the last ``n`` seconds."""
    frame = sys._getframe(1)
    place = (frame.f_code.co_filename, frame.f_lineno)
    now = time.time()
    if now - _LAST_LOGGED.get(place, -float("inf")) >= n:
        logging.getLogger(name or frame.f_globals["__name__"]).log(lvl, msg)
        _LAST_LOGGED[place] = now


def create_small_table(small_dict):
    """A one-row table of a dict of numbers, for metrics."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict.keys()),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
