"""Reading text, JSON and XML annotation files in the encodings that annotation tools write."""

import codecs
import json
import logging
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from deim.errors import DatasetError

logger = logging.getLogger("detectron2.deim")

_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Read a text file: UTF-16 if it has a byte order mark, otherwise UTF-8, or Latin-1 if it is not valid UTF-8.

    Raises:
        DatasetError: if the file does not exist or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    try:
        return data.decode("utf-16" if data.startswith(_UTF_16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError:
        logger.warning(
            f"{path} is not valid UTF-8, and is read as Latin-1: names in another encoding become unreadable"
        )
        return data.decode("latin-1")


def read_json(path: Path) -> Any:
    """Read a JSON file; see :func:`read_text` for its encoding.

    Raises:
        DatasetError: if the file cannot be read or is not valid JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from error


_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


def read_xml(path: Path) -> ET.Element:
    """Read an XML file in its declared encoding, or in Latin-1 if the declaration is wrong.

    Raises:
        DatasetError: if the file cannot be read or is not valid XML.
    """
    try:
        data = path.read_bytes()
        try:
            return ET.fromstring(data)
        except ET.ParseError:
            if _is_utf8(data):
                raise
            return ET.fromstring(_DECLARATION.sub("", read_text(path)))
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise DatasetError(f"{path} is not valid XML: {error}") from error


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_plain_utf8(path: Path) -> bool:
    """Return whether a file is UTF-8 without a byte order mark."""
    data = path.read_bytes()
    return not data.startswith((codecs.BOM_UTF8, *_UTF_16_MARKS)) and _is_utf8(data)


def read_class_names(path: Path) -> list[str]:
    """Read class names from a text file with one name per line.

    Raises:
        DatasetError: if the file cannot be read.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
