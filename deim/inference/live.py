"""Live streams: reader threads that keep only the newest frame, and connect again."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from deim.errors import ConfigError, DatasetError
from deim.inference.addresses import is_address, without_password
from deim.inference.video import Frame, Video

logger = logging.getLogger("detectron2.deim")

# Seconds between two checks whether a stream has ended.
_POLL_S = 0.2


@dataclass(frozen=True)
class ReconnectPolicy:
    """How a broken stream is connected again.

    Attributes:
        max_attempts: number of successive attempts without success, after which the stream ends; 0 for none.
        first_delay: seconds before the first attempt. The delay doubles with each further attempt.
        max_delay: longest delay in seconds.
        timeout: seconds without an answer or a frame, after which the stream counts as broken.
        stable_after: seconds of frames, after which attempts are counted from the start.
    """

    max_attempts: int = 10
    first_delay: float = 1.0
    max_delay: float = 30.0
    timeout: float = 10.0
    stable_after: float = 10.0

    def __post_init__(self) -> None:
        if self.max_attempts < 0 or self.timeout <= 0:
            raise ConfigError(
                f"max_attempts={self.max_attempts} must be at least 0, and timeout={self.timeout:g} above 0"
            )

    def delay(self, attempt: int) -> float:
        """Return the seconds before an attempt, which are counted from 1."""
        return min(self.first_delay * 2 ** min(attempt - 1, 30), self.max_delay)


class LiveStream:
    """Stream that a thread reads, of which only the newest frame is kept.

    A frame that arrives before the previous one was taken replaces it, so that the consumer never falls behind and the
    memory is that of one frame.

    Args:
        source: address, or camera index.
        policy: timeouts, and how a broken stream is connected again.
        video: the opened stream; default: open it.
        arrival: condition to notify when a frame arrives or the stream ends; shared by several streams.

    Attributes:
        fps: nominal frames per second.
        num_frames: number of frames read.
        num_dropped: number of frames replaced before they were taken.
        num_reconnects: number of times that the stream was connected again.
        error: reason for the end of the stream; None while it runs, and if it was closed.

    Raises:
        DatasetError: if the stream cannot be opened.
    """

    def __init__(
        self,
        source: str,
        policy: ReconnectPolicy | None = None,
        video: Video | None = None,
        arrival: threading.Condition | None = None,
    ):
        self.source, self.policy = source, policy or ReconnectPolicy()
        self.name = without_password(source) if is_address(source) else f"camera {source}"
        video = video or Video(source, self.policy.timeout)
        self.fps = video.fps
        self.num_frames = self.num_dropped = self.num_reconnects = 0
        self.error: DatasetError | None = None
        self._arrival = arrival or threading.Condition()
        self._newest: tuple[np.ndarray, int, float] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(video,), daemon=True, name=f"reader of {self.name}")
        self._thread.start()

    @property
    def has_frame(self) -> bool:
        """Whether the newest frame was not taken yet."""
        return self._newest is not None

    @property
    def is_running(self) -> bool:
        """Whether a frame was not taken yet, or further frames may arrive."""
        return self.has_frame or (self._thread.is_alive() and not self._closing.is_set())

    def request_close(self) -> None:
        """Ask the thread to stop; does not wait."""
        self._closing.set()

    def take(self) -> Frame | None:
        """Return the newest frame if it was not taken yet, else None; does not wait."""
        with self._arrival:
            newest, self._newest = self._newest, None
        if newest is None:
            return None
        return Frame(cv2.cvtColor(newest[0], cv2.COLOR_BGR2RGB), *newest[1:])

    def wait(self) -> Frame | None:
        """Wait for a frame that was not taken yet, and return it; None after the end of the stream."""
        while self.is_running:
            with self._arrival:
                self._arrival.wait_for(lambda: self.has_frame, _POLL_S)
            if (frame := self.take()) is not None:
                return frame
        return None

    def close(self) -> None:
        """Stop the thread. Waits at most for the timeout of the policy."""
        self.request_close()
        self._thread.join(self.policy.timeout + 1)
        with self._arrival:
            self._newest = None

    def _run(self, video: Video | None) -> None:
        failures = 0
        while True:
            if video is not None and self._receive(video) >= self.policy.stable_after:
                failures = 0
            failures += 1
            if self._closing.is_set() or failures > self.policy.max_attempts:
                break
            delay = self.policy.delay(failures)
            limit = self.policy.max_attempts
            logger.warning(f"{self.name} broke off: connecting again in {delay:g} s (attempt {failures} of {limit})")
            if self._closing.wait(delay):
                break
            video = self._reconnect()
        with self._arrival:
            if not self._closing.is_set() and self.policy.max_attempts:
                self.error = DatasetError(
                    f"{self.name} broke off, and {self.policy.max_attempts} attempts to connect again failed"
                )
            self._arrival.notify_all()

    def _receive(self, video: Video) -> float:
        """Read frames until the stream breaks off or is closed; return the seconds until the last frame."""
        start = last = time.monotonic()
        try:
            while not self._closing.is_set() and (image := video.read()) is not None:
                last = time.monotonic()
                with self._arrival:
                    self.num_dropped += self._newest is not None
                    self._newest = (image, self.num_frames, last)
                    self.num_frames += 1
                    self._arrival.notify_all()
        except cv2.error as error:  # a damaged frame
            logger.warning(f"{self.name}: OpenCV cannot decode a frame: {error}")
        finally:
            video.close()
        return last - start

    def _reconnect(self) -> Video | None:
        try:
            video = Video(self.source, self.policy.timeout)
        except DatasetError:
            return None
        self.num_reconnects += 1
        logger.warning(f"{self.name} is connected again")
        return video


class LiveStreams:
    """Several live streams, read at the same time.

    Attributes:
        streams: the streams, in the order of the sources.
    """

    def __init__(self) -> None:
        self._arrival = threading.Condition()
        self.streams: list[LiveStream] = []

    def open(self, source: str, policy: ReconnectPolicy, video: Video | None = None) -> LiveStream:
        """Add a stream; see :class:`LiveStream`."""
        stream = LiveStream(source, policy, video, self._arrival)
        self.streams.append(stream)
        return stream

    @property
    def is_running(self) -> bool:
        return any(stream.is_running for stream in self.streams)

    def take(
        self, streams: Sequence[LiveStream] | None = None, timeout: float = _POLL_S
    ) -> list[tuple[LiveStream, Frame]]:
        """Return the newest frame of each stream that has a new one; waits up to ``timeout`` seconds for the first.

        Args:
            streams: the streams to consider; default: all.
        """
        selected = self.streams if streams is None else streams
        with self._arrival:
            self._arrival.wait_for(lambda: any(stream.has_frame for stream in selected), timeout)
        frames = [(stream, stream.take()) for stream in selected]
        return [(stream, frame) for stream, frame in frames if frame is not None]

    def close(self) -> None:
        """Stop all threads."""
        for stream in self.streams:
            stream.request_close()
        for stream in self.streams:
            stream.close()
