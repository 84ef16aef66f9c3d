"""Web server for tests: cameras that send JPEG images, and files, with the faults of real ones."""

import contextlib
import http.server
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np

from tests.serving import serve


def moving_dot(size: tuple[int, int] = (96, 128)) -> Iterator[np.ndarray]:
    """Yield BGR frames with a dot that moves to the right; the brightness of the background is the number of the frame."""
    for number in itertools.count():
        frame = np.full((*size, 3), number % 200, np.uint8)
        cv2.circle(frame, (10 + number % (size[1] - 20), size[0] // 2), 8, (0, 0, 255), -1)
        yield frame


@dataclass
class Connection:
    """What a camera sends to one client.

    Attributes:
        size: (height, width) of the frames.
        num_frames: number of frames until the connection breaks; None for no end.
        garbage_every: every so many frames, one is replaced by bytes that are no image; 0 for none.
        stalls: whether the camera sends nothing after its frames, in place of breaking the connection.
    """

    size: tuple[int, int] = (96, 128)
    num_frames: int | None = None
    garbage_every: int = 0
    stalls: bool = False


@dataclass
class Server:
    """Web server of this machine.

    Attributes:
        connections: what the camera at ``/camera`` sends to its first client, the second, and so on; the last is repeated.
        files: content type and content by path.
        redirects: target by path.
        silent: paths that are never answered.
        requests: the requested paths.
    """

    fps: float = 100.0
    connections: list[Connection] = field(default_factory=lambda: [Connection()])
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    address: str = ""
    is_running: bool = True
    num_clients: int = 0

    @contextmanager
    def running(self) -> Iterator["Server"]:
        with serve(_handler(self)) as port:
            self.address = f"http://127.0.0.1:{port}"
            try:
                yield self
            finally:
                self.is_running = False


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            server.requests.append(self.path)
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client has left
                self._answer()

        def _answer(self) -> None:
            if self.path in server.silent:
                _wait(lambda: not server.is_running)
            elif self.path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path in server.files:
                self._send_file(*server.files[self.path])
            elif self.path.startswith("/camera"):
                self._send_frames()
            else:
                self.send_error(404)

        def _send_file(self, kind: str, content: bytes) -> None:
            byte_range = self.headers.get("Range", "")
            first = int(byte_range.removeprefix("bytes=").partition("-")[0]) if byte_range else 0
            self.send_response(206 if byte_range else 200)
            if byte_range:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            self.wfile.write(content[first:])

        def _send_frames(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            connection = self._next_connection()
            for number, frame in enumerate(itertools.islice(moving_dot(connection.size), connection.num_frames)):
                if not server.is_running:
                    return
                is_garbage = (
                    connection.garbage_every and number % connection.garbage_every == connection.garbage_every - 1
                )
                data = b"\xff\xd8 no image" * 50 if is_garbage else cv2.imencode(".jpg", frame)[1].tobytes()
                header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(header.encode() + data + b"\r\n")
                time.sleep(1 / server.fps)
            if connection.stalls:
                _wait(lambda: not server.is_running)

        def _next_connection(self) -> Connection:
            if self.headers.get("User-Agent") == "deim":  # asks for the content type, and leaves
                return Connection()
            server.num_clients += 1
            return server.connections[min(server.num_clients, len(server.connections)) - 1]

    return Handler


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)
