"""Reasons to stop a video or stream before its end: signals, and limits of frames and seconds."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from deim.errors import ConfigError


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C (SIGINT) and SIGTERM set in place of ending the process.

    A second signal has its usual effect. Outside of the main thread, where Python allows no signal handlers, signals keep
    their effect.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()


@dataclass(frozen=True)
class Limits:
    """Limits of each video or stream.

    Attributes:
        frames: number of frames to process; None for no limit.
        seconds: seconds to process; None for no limit.

    Raises:
        ConfigError: if a limit is not positive.
    """

    frames: int | None = None
    seconds: float | None = None
    _start: float = field(default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("frames", self.frames), ("seconds", self.seconds)):
            if value is not None and value <= 0:
                raise ConfigError(f"the maximum number of {name} is {value:g}, but must be positive")

    def started(self) -> "Limits":
        """Return the limits with the seconds counted from now."""
        return Limits(self.frames, self.seconds)

    def is_reached(self, num_frames: int) -> bool:
        """Return whether ``num_frames`` processed frames, or the seconds since the start, reach a limit."""
        is_late = self.seconds is not None and time.monotonic() - self._start >= self.seconds
        return is_late or (self.frames is not None and num_frames >= self.frames)
