"""Calls of converters: their messages are suppressed, and their errors name the file."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from deim.errors import ExportError
from deim.inference.export.session import last_line


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Suppress the messages of an exporter."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)


@contextlib.contextmanager
def conversion(path: str, converter: str) -> Iterator[None]:
    """Suppress the messages of a converter within the context, and replace its exceptions.

    Args:
        path: path of the file to write, for the error message.
        converter: name of the converter, for the error message.

    Raises:
        ExportError: if the converter raises an exception.
    """
    try:
        with silence_exporter():
            yield
    except Exception as error:  # the converters raise their own exceptions, and plain RuntimeErrors
        raise ExportError(
            f"{path} was not written: {converter} cannot convert the model: {last_line(error)}"
        ) from error
