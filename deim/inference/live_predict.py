"""Prediction on live streams and cameras, for as long as they run."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deim.errors import ConfigError, DatasetError
from deim.inference.detections import Detections
from deim.inference.display import Display
from deim.inference.live import LiveStream, LiveStreams, ReconnectPolicy
from deim.inference.recording import SegmentedRecorder, SegmentLimits
from deim.inference.stopping import Limits, stop_on_signals
from deim.inference.video import Frame, Video

logger = logging.getLogger("detectron2.deim")

_REPORT_PERIOD = 60.0


@dataclass(frozen=True)
class StreamOptions:
    """Options of videos and streams.

    Attributes:
        limits: when to stop.
        reconnect: how a broken stream is connected again.
        segments: how the results of a live stream are split.
        show: whether to show the frames in windows.
    """

    limits: Limits = field(default_factory=Limits)
    reconnect: ReconnectPolicy = field(default_factory=ReconnectPolicy)
    segments: SegmentLimits = field(default_factory=SegmentLimits)
    show: bool = False


# Detects the objects in frames of the given streams.
Detector = Callable[[Sequence[np.ndarray]], list[Detections]]
# Changes the detections in a frame, for example by identities; its state belongs to one stream.
Stage = Callable[[Detections, float], Detections]


@dataclass
class _Channel:
    """A stream with its recorder."""

    stream: LiveStream
    name: str
    recorder: SegmentedRecorder | None
    stage: Stage | None
    num_processed: int = 0

    def report(self) -> str:
        stream = self.stream
        return (
            f"{stream.name}: {self.num_processed} frames processed, {stream.num_dropped} dropped, "
            f"{stream.num_reconnects} times connected again"
        )


class LiveJob:
    """Prediction on live streams that are read at the same time.

    The newest frames of all streams are one batch. Frames that arrive during a forward pass are dropped except for the
    newest.

    Args:
        detect: returns the detections in each of several frames.
        formats: output formats; see :data:`deim.inference.writers.WRITERS`.
        folder: output directory, with one directory for each stream; None to write nothing.
        class_names: all classes of the model.
    """

    def __init__(
        self,
        detect: Detector,
        formats: Sequence[str],
        folder: Path | None,
        class_names: Sequence[str],
        options: StreamOptions,
        display: Display | None = None,
    ):
        self.detect, self.formats, self.folder, self.class_names = detect, formats, folder, class_names
        self.options, self.display = options, display
        self.errors: list[DatasetError] = []
        self._streams = LiveStreams()
        self._channels: dict[LiveStream, _Channel] = {}

    def add(self, source: str, name: str, video: Video | None = None, stage: Stage | None = None) -> None:
        """Open a stream.

        Args:
            source: address or camera index.
            name: name of its output directory.
            video: the opened stream; default: open it.
            stage: changes the detections in each frame, given its time of arrival in seconds.

        Raises:
            DatasetError: if the stream cannot be opened.
        """
        stream = self._streams.open(source, self.options.reconnect, video)
        recorder = None
        if self.folder is not None:
            recorder = SegmentedRecorder(
                self.formats, self.folder / name, self.class_names, stream.fps, self.options.segments
            )
        self._channels[stream] = _Channel(stream, name, recorder, stage)

    def run(self) -> int:
        """Process the streams until they end, a limit is reached, or the process receives a signal.

        Returns:
            the number of processed frames.

        Raises:
            ConfigError: if the results cannot be written.
        """
        try:
            try:
                self._run_until_stop()
            finally:
                self.close()
        except OSError as error:
            raise ConfigError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        self._report()
        return sum(channel.num_processed for channel in self._channels.values())

    def close(self) -> None:
        """Close the files, then the streams, which can take until their timeout."""
        try:
            for channel in self._channels.values():
                if channel.recorder is not None:
                    channel.recorder.close()
        finally:
            self._streams.close()
        self.errors = [stream.error for stream in self._channels if stream.error is not None]

    def _run_until_stop(self) -> None:
        limits, next_report = self.options.limits.started(), time.monotonic() + _REPORT_PERIOD
        active = list(self._channels)
        with stop_on_signals() as stop:
            while active and not stop.is_set() and not (self.display is not None and self.display.is_closed):
                self._process(self._streams.take(active))
                active = [s for s in active if s.is_running and not self._is_done(s, limits)]
                if time.monotonic() >= next_report:
                    next_report += _REPORT_PERIOD
                    self._report()

    def _is_done(self, stream: LiveStream, limits: Limits) -> bool:
        channel = self._channels[stream]
        is_done = limits.is_reached(channel.num_processed)
        if is_done:
            stream.request_close()
            if channel.recorder is not None:
                channel.recorder.close()
        return is_done

    def _process(self, frames: Sequence[tuple[LiveStream, Frame]]) -> None:
        if self.display is not None:
            self.display.update()
        if not frames:
            return
        for (stream, frame), detections in zip(frames, self.detect([frame.image for _, frame in frames]), strict=True):
            channel = self._channels[stream]
            channel.num_processed += 1
            if channel.stage is not None:
                detections = channel.stage(detections, frame.time)
            is_drawn = self.display is not None or (channel.recorder is not None and channel.recorder.has_video)
            annotated = np.asarray(detections.draw()) if is_drawn else None
            if channel.recorder is not None:
                channel.recorder.add(detections, annotated, frame.number, frame.time)
            if self.display is not None and annotated is not None:
                self.display.show(channel.name, annotated)

    def _report(self) -> None:
        for channel in self._channels.values():
            logger.info(channel.report())
