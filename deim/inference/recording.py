"""Recording of a live stream into segments: directories of a limited duration or size."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from deim.errors import ConfigError
from deim.inference.detections import Detections
from deim.inference.video import FramePosition, LiveVideoWriter
from deim.inference.writers import DetectionWriter, open_writers

# Seconds between two measurements of the size of a segment.
_SIZE_PERIOD = 2.0


@dataclass(frozen=True)
class SegmentLimits:
    """Limits of a segment, after which the next begins.

    Attributes:
        minutes: duration.
        megabytes: size of the files, in 10^6 bytes; None for no limit.

    Raises:
        ConfigError: if a limit is not positive.
    """

    minutes: float = 60.0
    megabytes: float | None = None

    def __post_init__(self) -> None:
        if self.minutes <= 0 or (self.megabytes is not None and self.megabytes <= 0):
            raise ConfigError(
                f"the limits of a segment, {self.minutes:g} min and {self.megabytes} MB, must be positive"
            )


class SegmentedRecorder:
    """Writer of ``<folder>/<time>/``: the results of a live stream, split by duration and size.

    A segment has the files of the other writers, and a video in place of images. It is complete once the next begins. A
    new segment also begins if the frames change their size. No results are kept in memory.

    Args:
        formats: keys of :data:`deim.inference.writers.WRITERS`.
        folder: directory of the stream.
        fps: frames per second of the video.
        limits: duration and size of a segment.
    """

    def __init__(
        self,
        formats: Sequence[str],
        folder: Path,
        class_names: Sequence[str],
        fps: float,
        limits: SegmentLimits,
    ):
        self.folder, self.class_names, self.fps, self.limits = folder, class_names, fps, limits
        self.has_video = "images" in formats
        self.formats = [name for name in formats if name != "images"]
        self.num_segments = 0
        self._segment: _Segment | None = None

    def add(self, detections: Detections, annotated: np.ndarray | None, number: int, arrival: float) -> None:
        """Write the detections in a frame.

        Args:
            annotated: the frame with drawn detections, uint8 (H, W, 3) RGB; None if no video is written.
            number: number of the frame in the stream.
            arrival: time of arrival in seconds, of the monotonic clock.
        """
        if self._segment is not None and self._segment.is_complete(self.limits, detections.image_size, arrival):
            self.close()
        if self._segment is None:
            self._segment = self._open(detections.image_size, arrival)
        name = f"{self.folder.name}_{number:08d}_{_clock_time(arrival):%Y%m%d-%H%M%S.%f}"
        position = FramePosition(self.folder.name, number)
        self._segment.add(detections, annotated, name[:-3], position, arrival)

    def close(self) -> None:
        """Close the files of the present segment."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _open(self, size: tuple[int, int], start: float) -> "_Segment":
        self.num_segments += 1
        stamp = f"{_clock_time(start):%Y%m%d-%H%M%S}"
        folder, repetition = self.folder / stamp, 1
        while folder.exists():
            repetition += 1
            folder = self.folder / f"{stamp}_{repetition}"
        writers = open_writers(self.formats, folder, self.class_names)
        video = LiveVideoWriter(folder / f"{self.folder.name}.mp4", self.fps) if self.has_video else None
        return _Segment(folder, writers, video, size, start)


def _clock_time(monotonic: float) -> datetime:
    """Return the local date and time of a time of the monotonic clock."""
    return datetime.fromtimestamp(time.time() - time.monotonic() + monotonic)


@dataclass
class _Segment:
    folder: Path
    writers: list[DetectionWriter]
    video: LiveVideoWriter | None
    image_size: tuple[int, int]
    start: float
    next_measurement: float = 0.0

    def is_complete(self, limits: SegmentLimits, image_size: tuple[int, int], arrival: float) -> bool:
        if image_size != self.image_size or arrival - self.start >= 60 * limits.minutes:
            return True
        if limits.megabytes is None or arrival < self.next_measurement:
            return False
        self.next_measurement = arrival + _SIZE_PERIOD
        return sum(path.stat().st_size for path in self.folder.rglob("*")) >= 1e6 * limits.megabytes

    def add(
        self,
        detections: Detections,
        annotated: np.ndarray | None,
        name: str,
        position: FramePosition,
        arrival: float,
    ) -> None:
        for writer in self.writers:
            writer.add(detections, name, position)
        if self.video is not None and annotated is not None:
            self.video.add(annotated, arrival)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
        if self.video is not None:
            self.video.close()
