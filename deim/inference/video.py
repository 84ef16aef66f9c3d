"""Reading videos, cameras and streams, and writing videos."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from deim.errors import ConfigError, DatasetError
from deim.inference.addresses import is_address, is_hls, without_password

SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"})
# Frames per second of sources that do not state them.
DEFAULT_FPS = 25.0
# Streams without a length or frame rate have invalid values of these.
_MAX_FPS, _MAX_FRAMES = 240, 10**9
# Successive frames of a stream that cannot be decoded, after which it counts as broken.
_MAX_DAMAGED = 10


def is_camera(source: str) -> bool:
    """Return whether a source is a camera index: a number that is not the name of an existing file or directory."""
    return source.isdecimal() and not Path(source).exists()


def is_video(source: str) -> bool:
    """Return whether a source is a video file, by its suffix, or a camera index."""
    is_file = Path(source).suffix.lower() in SUFFIXES or is_hls(source)
    return is_camera(source) or (is_file and not Path(source).is_dir())


@dataclass(frozen=True, eq=False)
class Frame:
    """Frame of a video or stream.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        number: number of the frame, from 0; dropped frames of a live stream are counted.
        time: position in a video, or time of arrival of a live frame by the monotonic clock, in seconds.
    """

    image: np.ndarray
    number: int
    time: float


@dataclass(frozen=True)
class FramePosition:
    """Place of an image in a video or stream.

    Attributes:
        sequence: name of the video or stream.
        number: number of the frame, from 0.
    """

    sequence: str
    number: int


class Video:
    """Video file, camera given by its index, or stream given by its address.

    Args:
        source: path, camera index or address.
        timeout: seconds without an answer or a frame, after which a stream counts as broken.

    Attributes:
        fps: frames per second.
        num_frames: number of frames; None if unknown, as for cameras and live streams.

    Raises:
        DatasetError: if the source cannot be opened.
    """

    def __init__(self, source: str, timeout: float = 10.0):
        self.source, self._timeout = source, timeout
        self._capture = _open_capture(source, timeout)
        if not self._capture.isOpened():
            raise DatasetError(_open_error(source, timeout))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= _MAX_FPS else DEFAULT_FPS
        num_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = num_frames if 0 < num_frames < _MAX_FRAMES else None

    def read(self) -> np.ndarray | None:
        """Return the next frame, uint8 (H, W, 3) BGR; None at the end, or if a stream is broken.

        Frames of a stream that cannot be decoded are skipped.
        """
        start = time.monotonic()
        is_read, frame = self._capture.read()
        for _ in range(_MAX_DAMAGED if is_address(self.source) else 0):
            if is_read or time.monotonic() - start > self._timeout / 2:
                break
            is_read, frame = self._capture.read()
        return frame if is_read else None

    def close(self) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield uint8 (H, W, 3) RGB frames."""
        try:
            while (frame := self.read()) is not None:
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self.close()


def _open_capture(source: str, timeout: float) -> cv2.VideoCapture:
    if is_camera(source):
        return cv2.VideoCapture(int(source))
    if not is_address(source):
        return cv2.VideoCapture(source)
    # Only FFMPEG has timeouts. For an address, it opens no local files, neither by redirects nor by playlists.
    milliseconds = int(1000 * timeout)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def _open_error(source: str, timeout: float) -> str:
    if is_camera(source):
        return f"cannot open camera {source}: it does not exist or OpenCV does not support its format"
    if not is_address(source):
        return f"cannot open video {source}: it does not exist or OpenCV does not support its format"
    return (
        f"cannot open stream {without_password(source)}: no video within {timeout:g} s. Check address, user and password, "
        "for example with ffplay; the lines above may have the reason"
    )


class VideoWriter:
    """Writer of an ``.mp4`` file. Frames are resized to the size of the first."""

    def __init__(self, path: str | Path, fps: float):
        self.path, self.fps = Path(path), fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def add(self, frame: np.ndarray) -> None:
        """Append a frame.

        Args:
            frame: uint8 (H, W, 3) RGB.

        Raises:
            ConfigError: if OpenCV cannot write the video.
        """
        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._size = size
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, size)
            if not self._writer.isOpened():
                raise ConfigError(
                    f"cannot write {self.path}: this OpenCV has no mp4v codec, or the directory is not writable"
                )
        # OpenCV ignores frames of another size.
        self._writer.write(
            cv2.cvtColor(frame if size == self._size else cv2.resize(frame, self._size), cv2.COLOR_RGB2BGR)
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


class LiveVideoWriter:
    """Writer of an ``.mp4`` file that plays as fast as the frames arrive.

    A frame is repeated until the next one, or omitted if frames arrive faster than ``fps``. Pauses are cut to a second.
    """

    def __init__(self, path: str | Path, fps: float):
        self._writer = VideoWriter(path, fps)
        self._start: float | None = None
        self._num_written = 0

    def add(self, frame: np.ndarray, arrival: float) -> None:
        """Append a frame, uint8 (H, W, 3) RGB, that arrived at ``arrival`` in seconds; see :meth:`VideoWriter.add`."""
        fps = self._writer.fps
        if self._start is None:
            self._start = arrival
        num_due = round((arrival - self._start) * fps) + 1 - self._num_written
        num_repeats = min(num_due, round(fps))
        self._start += (num_due - num_repeats) / fps
        for _ in range(num_repeats):
            self._writer.add(frame)
        self._num_written += max(num_repeats, 0)

    def close(self) -> None:
        self._writer.close()
