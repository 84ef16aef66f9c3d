"""Addresses of images and streams, and playlists: what a user may give in place of a file.

Only addresses that a user gives to ``deim predict`` or to a predictor are opened. Annotations of datasets cannot contain
addresses.
"""

import re
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np

from deim.data.image import read_image
from deim.errors import DatasetError

WEB_SCHEMES = ("http", "https")
# Protocols of FFMPEG whose sources are live: they have no end, and frames that are not read in time are lost.
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp")
PLAYLIST_SUFFIXES = (".m3u", ".m3u8", ".txt")
# Limits of a downloaded image: bytes, seconds without an answer, seconds in total.
MAX_IMAGE_BYTES = 64 * 2**20
_TIMEOUT_S = 10.0
_MAX_DOWNLOAD_S = 60.0
_MAX_PLAYLIST_BYTES = 2**20
_MULTIPART = "multipart/x-mixed-replace"
# Keys of a query whose values are secret.
_SECRETS = "password|passwd|pass|pwd|token|access_token|auth|key|api_key|apikey|secret|sig|signature"


def is_address(source: str) -> bool:
    """Return whether a source is an address such as ``rtsp://camera/stream``, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def scheme(address: str) -> str:
    """Return the protocol of an address.

    Raises:
        DatasetError: if the protocol is not supported.
    """
    name = address.partition("://")[0].lower()
    if name not in WEB_SCHEMES + LIVE_SCHEMES:
        supported = ", ".join(f"{scheme}://" for scheme in WEB_SCHEMES + LIVE_SCHEMES)
        raise DatasetError(f"{without_password(address)}: addresses start with {supported}; give files by their path")
    return name


def without_password(source: str) -> str:
    """Return an address for logs and results: passwords are replaced by ``***``, also those in its query. Paths are returned
    unchanged."""
    if not is_address(source):
        return source
    address = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://[^/@:]*):[^/]*@", r"\1:***@", source)
    return re.sub(rf"([?&](?:{_SECRETS})=)[^&#]*", r"\1***", address, flags=re.IGNORECASE)


def stream_name(address: str) -> str:
    """Return a name for the files of a stream: host and path, with only letters, digits, ``_``, ``-`` and ``.``."""
    parts = urlsplit(address)
    name = re.sub(r"[^\w.-]+", "_", f"{parts.hostname or ''}{unquote(parts.path)}").strip("._")
    return name[:100] or "stream"


def image_name(address: str) -> str:
    """Return a name for the files of an image: its file name without suffix, or the host if there is none."""
    name = re.sub(r"[^\w.-]+", "_", Path(unquote(urlsplit(address).path)).stem).strip("._")
    return name[:100] or stream_name(address)


@dataclass(frozen=True)
class WebContent:
    """What a web server says about an address.

    Attributes:
        type: content type in lower case, without parameters; "" if unknown.
        has_length: whether the number of bytes is known, as of files and unlike streams.
    """

    type: str
    has_length: bool

    @property
    def is_image(self) -> bool:
        return self.type.startswith("image/")

    @property
    def is_multipart(self) -> bool:
        """Whether the content is a sequence of JPEG images, as many cameras send."""
        return self.type == _MULTIPART


def request_content(address: str) -> WebContent:
    """Ask a web server for the type of an address; the content is not read.

    Raises:
        DatasetError: if the server cannot be reached or answers with an error.
    """
    with _open(address) as response:
        return _content(response)


def download_image(address: str) -> np.ndarray:
    """Download and decode an image.

    Args:
        address: address with ``http://`` or ``https://``. Redirects to other protocols are rejected.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        DatasetError: if the server cannot be reached, or the content is not an image, has more than
            :data:`MAX_IMAGE_BYTES` or takes longer than a minute.
    """
    with _open(address) as response:
        content = _content(response)
        if not content.is_image:
            raise DatasetError(
                f"{without_password(address)} is not an image: its content type is {content.type or 'not stated'}"
            )
        data = _read(response, address)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        path.write_bytes(data)
        try:
            return read_image(str(path))
        except DatasetError as error:
            raise DatasetError(str(error).replace(str(path), without_password(address))) from error


def _content(response: HTTPResponse) -> WebContent:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return WebContent(kind, "Content-Length" in response.headers)


def _read(response: HTTPResponse, address: str) -> bytes:
    """Read a response within the limits of bytes and seconds."""
    shown, limit = without_password(address), f"{MAX_IMAGE_BYTES // 2**20} MiB"
    if int(response.headers.get("Content-Length") or 0) > MAX_IMAGE_BYTES:
        raise DatasetError(f"{shown} has more than {limit}: download the file and give its path")
    deadline, chunks, size = time.monotonic() + _MAX_DOWNLOAD_S, [], 0
    try:
        while chunk := response.read1(2**16):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_IMAGE_BYTES:
                raise DatasetError(f"{shown} has more than {limit}: download the file and give its path")
            if time.monotonic() > deadline:
                raise DatasetError(f"{shown}: the download was stopped after {_MAX_DOWNLOAD_S:.0f} s")
    except (OSError, HTTPException) as error:
        raise DatasetError(f"cannot download {shown}: {error}") from error
    return b"".join(chunks)


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, at most five, to ``http://`` and ``https://`` only."""

    max_redirections = 5

    def redirect_request(self, request: Any, *arguments: Any) -> Any:
        target = arguments[-1]
        if urlsplit(target).scheme.lower() not in WEB_SCHEMES:
            raise DatasetError(
                f"{without_password(request.full_url)} redirects to {without_password(target)}, which is not opened"
            )
        return super().redirect_request(request, *arguments)


def _open(address: str) -> HTTPResponse:
    shown = without_password(address)
    if scheme(address) not in WEB_SCHEMES:
        raise DatasetError(f"{shown} is a stream, and not an image")
    parts = urlsplit(address)
    handlers: list[urllib.request.BaseHandler] = [_WebRedirects()]
    if parts.username is not None:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        passwords.add_password(None, address, unquote(parts.username), unquote(parts.password or ""))
        handlers += [urllib.request.HTTPBasicAuthHandler(passwords), urllib.request.HTTPDigestAuthHandler(passwords)]
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "deim"})
        return urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        hint = ": give user and password as http://user:password@host/" if error.code == 401 else ""
        raise DatasetError(f"cannot open {shown}: the server answers {error.code} {error.reason}{hint}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DatasetError(f"cannot open {shown}: {reason}") from error


def is_playlist(source: str) -> bool:
    """Return whether a source is a file that lists other sources. Playlists of HLS are videos, and no such file."""
    if is_address(source) or Path(source).suffix.lower() not in PLAYLIST_SUFFIXES or not Path(source).is_file():
        return False
    return not is_hls(source)


def is_hls(source: str) -> bool:
    """Return whether a file is a playlist of HLS: the segments of one video."""
    path = Path(source)
    if path.suffix.lower() != ".m3u8" or not path.is_file():
        return False
    with path.open("rb") as file:
        return b"#EXT-X-" in file.read(_MAX_PLAYLIST_BYTES)


def read_playlist(path: str) -> list[str]:
    """Return the sources in a playlist: one address or path per line.

    Paths are relative to the folder of the playlist. Empty lines and lines that start with ``#`` are skipped.

    Raises:
        DatasetError: if the file is empty, too large or not a text, or names another playlist.
    """
    data = Path(path).read_bytes()
    if len(data) > _MAX_PLAYLIST_BYTES:
        raise DatasetError(f"playlist {path} has more than {_MAX_PLAYLIST_BYTES // 2**20} MiB")
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"playlist {path} is not a text file in UTF-8: {error}") from error
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise DatasetError(f"playlist {path} is empty: write one address or path per line")
    sources = [line if is_address(line) or line.isdecimal() else str(Path(path).parent / line) for line in entries]
    nested = [source for source in sources if is_playlist(source)]
    if nested:
        raise DatasetError(f"playlist {path} names the playlist {nested[0]}: write its lines into {path}")
    return sources


def expand_playlists(sources: list[str]) -> list[str]:
    """Return sources with each playlist replaced by its entries; see :func:`read_playlist`."""
    return [entry for source in sources for entry in (read_playlist(source) if is_playlist(source) else [source])]
