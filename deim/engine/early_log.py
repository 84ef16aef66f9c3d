"""Log records emitted before the log of a run is set up."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler


@contextmanager
def said_later(logger: logging.Logger) -> Iterator[Callable[[], None]]:
    """Buffer the records of ``logger``. Yields a function that passes them to the handlers once these exist."""
    buffer = MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    level = logger.level
    logger.addHandler(buffer)
    logger.setLevel(logging.INFO)

    def tell() -> None:
        logger.removeHandler(buffer)
        for record in buffer.buffer:
            logger.handle(record)
        buffer.buffer.clear()

    try:
        yield tell
    finally:
        logger.removeHandler(buffer)
        logger.setLevel(level)
