"""Reading videos and cameras, and writing videos."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from deim.errors import ConfigError, DatasetError

SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})


def is_camera(source: str) -> bool:
    """Return whether a source is a camera index: a number that is not the name of an existing file or directory."""
    return source.isdecimal() and not Path(source).exists()


def is_video(source: str) -> bool:
    """Return whether a source is a video file, by its suffix, or a camera index."""
    return is_camera(source) or (Path(source).suffix.lower() in SUFFIXES and not Path(source).is_dir())


class Video:
    """Video file, or camera given by its index.

    Attributes:
        fps: frames per second.
        num_frames: number of frames; None if unknown, as for cameras.

    Raises:
        DatasetError: if the video or camera cannot be opened.
    """

    def __init__(self, source: str):
        self.source = source
        self._capture = cv2.VideoCapture(int(source) if is_camera(source) else source)
        if not self._capture.isOpened():
            kind = "camera" if is_camera(source) else "video"
            raise DatasetError(f"cannot open {kind} {source}: it does not exist or OpenCV does not support its format")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        num_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = num_frames if num_frames > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield uint8 (H, W, 3) RGB frames."""
        try:
            while True:
                is_read, frame = self._capture.read()
                if not is_read:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()


class VideoWriter:
    """Writer of an ``.mp4`` file with frames of one size."""

    def __init__(self, path: str | Path, fps: float):
        self.path, self.fps = Path(path), fps
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Append a frame.

        Args:
            frame: uint8 (H, W, 3) RGB.

        Raises:
            ConfigError: if OpenCV cannot write the video.
        """
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = (frame.shape[1], frame.shape[0])
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, size)
            if not self._writer.isOpened():
                raise ConfigError(
                    f"cannot write {self.path}: this OpenCV has no mp4v codec, or the directory is not writable"
                )
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
