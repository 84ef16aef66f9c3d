"""Local server on loopback that answers the requests of ``requests`` for every address.

``Web`` runs the server. ``redirect`` sends the requests of this process to the server within a context.
Another process calls ``redirect_until_exit`` at its start. The code under test uses the published addresses.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import requests

from tests.serving import serve

_PORT = "DEIM_TEST_WEB_PORT"
_until_exit = ExitStack()


@dataclass
class File:
    """Answer of the server for an address.

    Attributes:
        content: the body.
        moved_to: an address that the server redirects to, as GitHub and Hugging Face do; "" for none.
        breaks_after: number of bytes after which the connection breaks, once; None for never.
        has_ranges: whether the server supports range requests.
        type: content type.
    """

    content: bytes = b""
    moved_to: str = ""
    breaks_after: int | None = None
    has_ranges: bool = True
    type: str = "application/octet-stream"


@dataclass
class Web:
    """Files by address, and a log of the requests.

    A file on Google Drive has the address ``https://drive.google.com/file/d/<id>/view``. The server first sends a page
    that asks for confirmation, as Google Drive does for large files.
    """

    files: dict[str, File] = field(default_factory=dict)
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    port: int = 0

    def count(self, address: str) -> int:
        """Return the number of requests for an address."""
        return sum(requested == address for requested, _ in self.requests)

    @contextmanager
    def running(self) -> Iterator["Web"]:
        with serve(_handler(self)) as self.port:
            yield self

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment variables that redirect another process; they need a file, written to ``folder``."""
        root = Path(__file__).resolve().parents[1]
        (folder / "sitecustomize.py").write_text(
            f"import sys; sys.path.insert(0, {str(root)!r})\n"
            "from tests.web import redirect_until_exit\nredirect_until_exit()\n",
            encoding="utf-8",
        )
        return {_PORT: str(self.port), "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@contextmanager
def redirect(port: int) -> Iterator[None]:
    """Within the context, send the requests of this process to the local server; port 0 refuses all requests."""
    send = requests.adapters.HTTPAdapter.send

    def local(self, request, **options):
        url = urlsplit(request.url)
        if url.hostname != "127.0.0.1":
            if not port:
                raise requests.ConnectionError(f"no network: {request.url}")
            query = f"?{url.query}" if url.query else ""
            request.url = f"http://127.0.0.1:{port}/{url.netloc}{url.path}{query}"
        return send(self, request, **options)

    with mock.patch.object(requests.adapters.HTTPAdapter, "send", local):
        yield


def redirect_until_exit() -> None:
    """Call :func:`redirect` for the lifetime of this process, with the port in the environment."""
    if _PORT in os.environ:
        _until_exit.enter_context(redirect(int(os.environ[_PORT])))


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            requested = urlsplit(self.path)
            address = f"https:/{requested.path}"
            web.requests.append((address, dict(self.headers)))
            query = {name: values[0] for name, values in parse_qs(requested.query).items()}
            if address == "https://drive.google.com/uc":
                self._page(_confirmation(query["id"]))
            elif address == "https://drive.usercontent.google.com/download":
                address = f"https://drive.google.com/file/d/{query['id']}/view"
                self._file(web.files.get(address) if query.get("confirm") == "t" else None)
            else:
                self._file(web.files.get(address))

        def _page(self, text: str) -> None:
            self._file(File(text.encode(), type="text/html; charset=utf-8"), attached=False)

        def _file(self, file: File | None, attached: bool = True) -> None:
            if file is None:
                self.send_error(404)
                return
            if file.moved_to:
                self.send_response(302)
                self.send_header("Location", file.moved_to)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first = self._first_byte(file)
            body = file.content[first:]
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(file.content) - 1}/{len(file.content)}")
            self.send_header("Content-Type", file.type)
            self.send_header("Content-Length", str(len(body)))
            if attached:
                self.send_header("Content-Disposition", 'attachment; filename="weights.pth"')
            self.end_headers()
            if file.breaks_after is not None:
                body, file.breaks_after = body[: file.breaks_after], None
                self.close_connection = True
            self.wfile.write(body)

        def _first_byte(self, file: File) -> int:
            byte_range = self.headers.get("Range", "")
            return int(byte_range.removeprefix("bytes=").partition("-")[0]) if byte_range and file.has_ranges else 0

    return Handler


def _confirmation(identifier: str) -> str:
    """Return the page that Google Drive shows for files that are too large for its virus scan."""
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{value}">'
        for name, value in (("id", identifier), ("export", "download"), ("confirm", "t"), ("uuid", "1234"))
    )
    return (
        "<!DOCTYPE html><html><body><p>Google Drive can't scan this file for viruses.</p>"
        f'<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">{hidden}</form>'
        "</body></html>"
    )
