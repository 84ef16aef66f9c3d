"""Log records emitted before the log of a run is set up."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler


@contextmanager
def buffered_log(logger: logging.Logger) -> Iterator[Callable[[], None]]:
    """Buffer the records of ``logger`` within the context.

    Yields:
        a function that passes the buffered records to the handlers; call it after the handlers are set up.
    """
    buffer = MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(buffer)
    logger.setLevel(logging.INFO)
    # An earlier run in this process has set up handlers, which would log the records twice.
    logger.propagate = False

    def emit() -> None:
        logger.removeHandler(buffer)
        logger.propagate = propagate
        for record in buffer.buffer:
            logger.handle(record)
        buffer.buffer.clear()

    try:
        yield emit
    finally:
        logger.removeHandler(buffer)
        logger.setLevel(level)
        logger.propagate = propagate
