"""RTSP server for tests: sends JPEG frames over the RTSP connection (RFC 2326 interleaved, RFC 2435 payload)."""

import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np

_CLOCK = 90_000
_PACKET_SIZE = 1400
_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track\r\n"


@contextmanager
def rtsp_camera(frames: Callable[[], Iterator[np.ndarray]], fps: float) -> Iterator[str]:
    """Serve BGR frames, whose sides are multiples of 16, at an address; every client gets a new iterator of frames."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while request := self._read_request():
                method, number = request[0].split()[0], _header(request, "CSeq")
                if method == "DESCRIBE":
                    self._answer(number, f"Content-Type: application/sdp\r\nContent-Length: {len(_SDP)}", _SDP)
                elif method == "SETUP":
                    self._answer(number, "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1")
                elif method == "PLAY":
                    self._answer(number, "Session: 1")
                    self._send_frames()
                    return
                else:
                    self._answer(number, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")

        def _read_request(self) -> list[str]:
            lines = []
            while line := self.rfile.readline().decode().strip():
                lines.append(line)
            return lines

        def _answer(self, number: str, headers: str, body: str = "") -> None:
            self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{headers}\r\n\r\n{body}".encode())

        def _send_frames(self) -> None:
            sequence = 0
            try:
                for number, frame in enumerate(frames()):
                    if not server.is_running:
                        return
                    for packet in _rtp_packets(frame, sequence, int(number * _CLOCK / fps)):
                        self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
                        sequence += 1
                    time.sleep(1 / fps)
            except OSError:
                pass  # the client has left

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, is_running = True, True, True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/camera"
    finally:
        server.is_running = False
        server.shutdown()
        server.server_close()


def _header(request: list[str], name: str) -> str:
    return next(line.partition(":")[2].strip() for line in request if line.lower().startswith(name.lower()))


def _rtp_packets(frame: np.ndarray, sequence: int, timestamp: int) -> Iterator[bytes]:
    """Yield the packets of a frame: headers of RTP and of the JPEG payload, and a part of the entropy-coded data."""
    tables, scan = _jpeg_parts(frame)
    height, width = frame.shape[:2]
    for start in range(0, len(scan), _PACKET_SIZE):
        part = scan[start : start + _PACKET_SIZE]
        is_last = start + _PACKET_SIZE >= len(scan)
        header = struct.pack(
            ">BBHII", 0x80, 26 | (0x80 if is_last else 0), sequence & 0xFFFF, timestamp & 0xFFFFFFFF, 1
        )
        # type 1 has subsampled colors; quality 255 announces quantization tables in the first packet
        header += struct.pack(">I", start) + bytes([1, 255, width // 8, height // 8])
        if start == 0:
            header += struct.pack(">BBH", 0, 0, len(tables)) + tables
        sequence += 1
        yield header + part


def _jpeg_parts(frame: np.ndarray) -> tuple[bytes, bytes]:
    """Return the quantization tables and the entropy-coded data of a frame as JPEG with the standard Huffman tables."""
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    data = cv2.imencode(".jpg", frame, options)[1].tobytes()
    tables, position = b"", 2
    while True:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xDB:
            for start in range(0, len(segment), 65):
                tables += segment[start + 1 : start + 65]
        elif marker == 0xDA:
            return tables, data[position:-2]
