"""Tracking: identities of the objects in the frames of a video or stream, by ByteTrack."""

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deim.errors import ConfigError
from deim.inference.detections import Detections
from deim.inference.frames import open_frames
from deim.inference.images import ImageLike, as_rgb
from deim.inference.tiling import Tiling
from deim.inference.video import DEFAULT_FPS, Frame, FramePosition
from deim.inference.writers import UniqueNames
from deim.structures.boxes import pairwise_iou

if TYPE_CHECKING:
    from deim.inference.predictor import Predictor

# ByteTrack counts the time without detections in frames of a video with this rate.
_REFERENCE_FPS = 30


@dataclass(frozen=True)
class TrackingSettings:
    """Settings of ByteTrack.

    Attributes:
        low_threshold: minimum score of a detection that continues a track. New tracks start with the threshold of the
            predictor.
        max_lost_seconds: seconds without a detection after which a track ends; an object that reappears later gets a new
            identity.
        min_iou: minimum IoU of a detection with the predicted box of its track.
        max_overlap: of detections in a frame with a larger IoU, of any class, only the best is tracked; 1 for all. DETR models
            report an object that may belong to two classes twice, which would start two tracks.
        min_frames: number of successive frames with a detection, after which a track gets an identity.

    Raises:
        ConfigError: if a value is out of range.
    """

    low_threshold: float = 0.2
    max_lost_seconds: float = 1.0
    min_iou: float = 0.2
    max_overlap: float = 0.7
    min_frames: int = 2

    def __post_init__(self) -> None:
        for name in ("low_threshold", "min_iou", "max_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be between 0 and 1")
        if self.max_lost_seconds < 0 or self.min_frames < 2:
            raise ConfigError(
                f"max_lost_seconds={self.max_lost_seconds} must be at least 0, and min_frames={self.min_frames} at least 2"
            )


class Tracker:
    """ByteTrack for the frames of one video or stream.

    A detection is matched to the track whose predicted box overlaps it most, whatever their classes: first the detections of
    at least ``threshold``, then those with lower scores, which are mostly of partly hidden objects. The tracks follow the
    times of the frames, so that dropped frames of a live stream do not matter.

    Args:
        threshold: minimum score of a detection that starts a track.
        fps: nominal frames per second.
        identities: source of the numbers of new tracks; trackers that share it never give the same number twice. Default:
            1, 2, and so on.

    Raises:
        ConfigError: if the package trackers is not installed.
    """

    def __init__(
        self,
        threshold: float,
        fps: float = DEFAULT_FPS,
        settings: TrackingSettings | None = None,
        identities: Iterator[int] | None = None,
    ):
        self.settings = settings or TrackingSettings()
        tracker, self._detections = _import_package()
        self._tracker = tracker(
            lost_track_buffer=round(self.settings.max_lost_seconds * _REFERENCE_FPS),
            frame_rate=fps,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
            minimum_consecutive_frames=self.settings.min_frames,
            minimum_iou_threshold=self.settings.min_iou,
        )
        self._last_time: float | None = None
        self._mean_gap: float | None = None
        self._identities = itertools.count(1) if identities is None else identities
        # Number of a track in the package -> its identity; only of the present tracks.
        self._identity_of: dict[int, int] = {}

    def update(self, detections: Detections, time: float) -> Detections:
        """Return the detections that belong to a track, with their ``track_ids``, best first.

        Args:
            detections: detections in the next frame, also those with low scores.
            time: time of the frame in seconds; later than that of the previous frame.
        """
        self._extend_budget(time)
        candidates = detections[_distinct(detections, self.settings.max_overlap)]
        result = self._tracker.update(self._to_package(candidates), timestamp=time)
        numbers = np.asarray(result.tracker_id, dtype=np.int64)
        indices = np.asarray(result.data.get("index", ()), dtype=np.int64)
        order = np.flatnonzero(numbers >= 0)
        order = order[np.argsort(indices[order])]
        present = {track.tracker_id for track in self._tracker.tracks}
        self._identity_of = {number: i for number, i in self._identity_of.items() if number in present}
        tracked = candidates[torch.from_numpy(indices[order])]
        tracked.pred_track_ids = torch.tensor([self._identity(int(n)) for n in numbers[order]], dtype=torch.int64)
        return tracked

    def _extend_budget(self, time: float) -> None:
        """Let tracks survive the usual time between two frames, which may exceed ``max_lost_seconds``."""
        if self._last_time is not None:
            gap = time - self._last_time
            usual = self._mean_gap or gap
            self._tracker.maximum_time_without_update = max(self.settings.max_lost_seconds, 1.5 * usual)
            # A single interruption of a stream changes the mean by little.
            self._mean_gap = usual + 0.1 * (min(gap, 2 * usual) - usual)
        self._last_time = time

    def _to_package(self, detections: Detections) -> Any:
        return self._detections(
            xyxy=detections.boxes.double().cpu().numpy(),
            confidence=detections.scores.cpu().numpy(),
            data={"index": np.arange(len(detections))},
        )

    def _identity(self, number: int) -> int:
        if number not in self._identity_of:
            self._identity_of[number] = next(self._identities)
        return self._identity_of[number]


class TrackerFactory:
    """Factory of trackers for several videos, which never give the same identity twice.

    Args:
        threshold: minimum score of a detection that starts a track.
    """

    def __init__(self, threshold: float, settings: TrackingSettings):
        self.threshold, self.settings = threshold, settings
        self._identities = itertools.count(1)

    def create(self, fps: float) -> Tracker:
        """Return a tracker for a video with a nominal frame rate."""
        return Tracker(self.threshold, fps, self.settings, self._identities)


class ImageSequences:
    """Tracking in directories of frames: successive images of a directory are the frames of one sequence.

    Args:
        trackers: factory of the trackers.
        fps: frames per second.
        files: all images, in order. Images that cannot be read also count as frames.
        names: source of the names of the sequences.

    Raises:
        ConfigError: if ``fps`` is not positive.
    """

    def __init__(self, trackers: TrackerFactory, fps: float, files: Sequence[str | Path], names: UniqueNames):
        if not fps > 0:
            raise ConfigError(f"the frame rate of images must be positive, got --fps {fps:g}")
        self.trackers, self.fps = trackers, fps
        self._files, self._names = iter(files), names
        self._folder: Path | None = None
        self._number = 0

    def update(self, detections: Detections) -> tuple[Detections, FramePosition]:
        """Return the tracked objects in the next image that was read, and its place in the sequence."""
        for file in self._files:
            self._move_to(Path(file).parent)
            if str(file) == detections.file_name:
                break
        position = FramePosition(self._name, self._number)
        return self._tracker.update(detections, position.number / self.fps), position

    def _move_to(self, folder: Path) -> None:
        """Move to the next frame, which is in ``folder``."""
        if folder == self._folder:
            self._number += 1
            return
        self._folder, self._number = folder, 0
        self._tracker, self._name = self.trackers.create(self.fps), self._names.unique(_sequence_name(folder))


def _distinct(detections: Detections, max_overlap: float) -> torch.Tensor:
    """Return (N,) bool: detections, sorted best first, that do not overlap a better one by more than ``max_overlap``."""
    boxes = detections.boxes
    is_duplicate = pairwise_iou(boxes, boxes) > max_overlap
    keep = torch.ones(len(boxes), dtype=torch.bool)
    for index in range(len(boxes)):
        if keep[index]:
            keep[index + 1 :] &= ~is_duplicate[index, index + 1 :]
    return keep


def _import_package() -> tuple[Any, Any]:
    """Return the classes ByteTrackTracker of the package trackers and Detections of supervision."""
    try:
        from supervision import Detections as PackageDetections
        from trackers import ByteTrackTracker
    except ImportError as error:
        raise ConfigError(
            f"tracking requires the package trackers, which cannot be imported ({error}): pip install 'deim[track]'"
        ) from error
    return ByteTrackTracker, PackageDetections


def _sequence_name(folder: Path) -> str:
    """Return the name of a directory of frames; MOT Challenge has them in ``<sequence>/img1``."""
    folder = folder.resolve()
    return (folder.parent if folder.name == "img1" else folder).name or "frames"


def tracking_predictor(predictor: "Predictor", settings: TrackingSettings) -> "Predictor":
    """Return a predictor with the same model that also returns the detections with low scores."""
    sensitive = copy.copy(predictor)
    sensitive.threshold = min(predictor.threshold, settings.low_threshold)
    return sensitive


def track(
    predictor: "Predictor",
    source: str | Path | Iterable[ImageLike | Frame],
    *,
    fps: float = DEFAULT_FPS,
    settings: TrackingSettings | None = None,
    batch_size: int = 1,
    channels: str = "RGB",
    tiling: Tiling | None = None,
) -> Iterator[Detections]:
    """Yield the tracked objects in each frame; see :meth:`deim.inference.predictor.Predictor.track`."""
    settings = settings or TrackingSettings()
    tracker = Tracker(predictor.threshold, fps, settings)
    sensitive = tracking_predictor(predictor, settings)
    frames = iter(_frames(source, fps, channels))
    while batch := list(itertools.islice(frames, batch_size)):
        images = [frame.image for frame in batch]
        for frame, detections in zip(
            batch, sensitive.stream(images, batch_size=batch_size, tiling=tiling), strict=True
        ):
            yield tracker.update(detections, frame.time)


def _frames(source: str | Path | Iterable[ImageLike | Frame], fps: float, channels: str) -> Iterator[Frame]:
    """Yield frames with times: those of a video or stream, or else of successive images with the given frame rate."""
    if isinstance(source, str | Path):
        yield from open_frames(str(source), image_fps=fps)
        return
    for number, item in enumerate(source):
        yield item if isinstance(item, Frame) else Frame(as_rgb(item, channels), number, number / fps)
