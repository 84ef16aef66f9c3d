"""Prediction on many images, videos and streams, with results written to files."""

import glob
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deim.data.datasets.image_files import is_image
from deim.errors import ConfigError, DatasetError
from deim.inference.addresses import expand_playlists, is_address, stream_name, without_password
from deim.inference.detections import Detections, class_indices
from deim.inference.display import Display
from deim.inference.frames import is_image_address, open_video
from deim.inference.images import iterate_images
from deim.inference.live_predict import LiveJob, StreamOptions
from deim.inference.predictor import Predictor
from deim.inference.stopping import stop_on_signals
from deim.inference.tiling import Tiling
from deim.inference.tracking import ImageSequences, TrackerFactory, TrackingSettings, tracking_predictor
from deim.inference.video import DEFAULT_FPS, FramePosition, Video, VideoWriter, is_camera, is_video
from deim.inference.writers import DetectionWriter, UniqueNames, open_writers

# The number of frames that a video states is an estimate in some formats.
_COMPLETE = 0.9


class PredictionJob:
    """Prediction job: writes the detections of all images, videos and streams.

    Args:
        formats: output formats; see :data:`deim.inference.writers.WRITERS`.
        folder: output directory; None to write nothing.
        classes: names of the classes to keep; empty for all.
        batch_size, tiling: see :meth:`Predictor.stream`.
        options: options of videos and streams.
        tracking: settings to track objects; None for no tracking. Successive images of a directory are one video.
        image_fps: frames per second of such images.

    Raises:
        ConfigError: if the model does not have one of the classes, or there is no screen to show frames.
    """

    def __init__(
        self,
        predictor: Predictor,
        formats: Sequence[str],
        folder: str | None,
        classes: Sequence[str] = (),
        batch_size: int = 8,
        tiling: Tiling | None = None,
        options: StreamOptions | None = None,
        tracking: TrackingSettings | None = None,
        image_fps: float = DEFAULT_FPS,
    ):
        class_indices(classes, predictor.class_names)
        self.classes, self.image_fps = classes, image_fps
        self.predictor = predictor if tracking is None else tracking_predictor(predictor, tracking)
        self._trackers = None if tracking is None else TrackerFactory(predictor.threshold, tracking)
        self.folder = None if folder is None else Path(folder)
        self.formats = list(dict.fromkeys(formats)) if folder is not None else []
        self.batch_size, self.tiling, self.options = batch_size, tiling, options or StreamOptions()
        self.errors: list[DatasetError] = []
        self._names, self._count = UniqueNames(), 0
        self._writers: list[DetectionWriter] = []
        self._display = Display() if self.options.show else None
        self._is_stopped = False

    def run(self, sources: Sequence[str]) -> int:
        """Process all sources and return the number of images and frames.

        Streams and cameras are processed last, all at the same time.

        Raises:
            DatasetError: if a directory or pattern has no images; raised before the prediction. If images, videos or
                streams cannot be read: raised after all others are processed, with a list of them.
            ConfigError: if the directory is not writable, or the results would replace the images or videos.
        """
        inputs = self._sort(expand_playlists(list(sources)))
        if self.folder is not None:
            _check_inputs_are_kept(inputs, self.folder, self.formats)
            _check_files_are_kept(inputs, self.folder, self.formats)
        try:
            if inputs.images or inputs.videos:
                self._predict_files(inputs)
            if inputs.live and not self._is_stopped:
                self._predict_live(inputs.live)
        finally:
            if self._display is not None:
                self._display.close()
        if self.errors:
            listing = "\n".join(f"  {error}" for error in self.errors)
            raise DatasetError(
                f"{len(self.errors)} of {inputs.count} {inputs.description} could not be read:\n{listing}"
            )
        return self._count

    def _sort(self, sources: Sequence[str]) -> "_Inputs":
        """Sort sources by kind. Errors of addresses are collected."""
        inputs, images = _Inputs(), []
        for source in itertools.chain.from_iterable(map(_expand_pattern, sources)):
            try:
                if is_camera(source) or (is_address(source) and not is_image_address(source)):
                    video, is_live = open_video(source, self.options.reconnect)
                    (inputs.live if is_live else inputs.videos).append((source, video))
                elif is_video(source):
                    inputs.videos.append((source, None))
                else:
                    images.append(source)
            except DatasetError as error:
                inputs.num_errors += 1
                self.errors.append(error)
        inputs.images = list(iterate_images(images))
        return inputs

    def _predict_files(self, inputs: "_Inputs") -> None:
        if self.folder is not None:
            self._writers = open_writers(self.formats, self.folder, self.predictor.class_names)
        try:
            self._predict_images(inputs.images)
            for source, video in inputs.videos:
                if self._is_stopped:
                    break
                try:
                    self._predict_video(source, video or Video(source))
                except DatasetError as error:
                    self.errors.append(error)
        finally:
            for writer in self._writers:
                writer.close()

    def _predict_images(self, images: Sequence) -> None:
        if not images:
            return
        sequences = None
        if self._trackers is not None:
            sequences = ImageSequences(self._trackers, self.image_fps, images, self._names)
        for detections in self._progress(self._stream(images), len(images), "image"):
            name, position = self._names.name_for(detections.file_name, self._count), None
            if sequences is not None:
                detections, position = sequences.update(detections)
            for writer in self._writers:
                writer.add(detections, name, position)

    def _predict_video(self, source: str, video: Video) -> None:
        name = self._names.unique(stream_name(source)) if is_address(source) else self._names.name_for(source, 0)
        video_writer = None
        if self.folder is not None and "images" in self.formats:
            video_writer = VideoWriter(self.folder / f"{name}.mp4", video.fps)
        frame_writers = [writer for kind, writer in zip(self.formats, self._writers, strict=True) if kind != "images"]
        tracker = None if self._trackers is None else self._trackers.create(video.fps)
        limits, count = self.options.limits.started(), 0
        try:
            with stop_on_signals() as stop:
                for detections in self._progress(self._stream(video), video.num_frames, "frame"):
                    if tracker is not None:
                        detections = tracker.update(detections, count / video.fps)
                    for writer in frame_writers:
                        writer.add(detections, f"{name}_{count:06d}", FramePosition(name, count))
                    self._draw(detections, name, video_writer)
                    count += 1
                    self._is_stopped = stop.is_set() or (self._display is not None and self._display.is_closed)
                    if self._is_stopped or limits.is_reached(count):
                        print(f"stopped: keeping the results of {without_password(source)} so far", file=sys.stderr)
                        return
        finally:
            video.close()
            if video_writer is not None:
                video_writer.close()
        if count == 0:
            raise DatasetError(
                f"{without_password(source)}: no frame could be read; it is damaged, or has an unknown codec"
            )
        if video.num_frames and count < _COMPLETE * video.num_frames:
            raise DatasetError(
                f"{without_password(source)} broke off after {count} of {video.num_frames} frames; their results are kept"
            )

    def _draw(self, detections: Detections, name: str, video_writer: VideoWriter | None) -> None:
        if video_writer is None and self._display is None:
            return
        annotated = np.asarray(detections.draw())
        if video_writer is not None:
            video_writer.add(annotated)
        if self._display is not None:
            self._display.show(name, annotated)

    def _predict_live(self, sources: Sequence[tuple[str, Video]]) -> None:
        job = LiveJob(self._detect, self.formats, self.folder, self.predictor.class_names, self.options, self._display)
        for source, video in sources:
            name = f"camera_{source}" if is_camera(source) else stream_name(source)
            stage = None if self._trackers is None else self._trackers.create(video.fps).update
            job.add(source, self._names.unique(name), video, stage)
        self._count += job.run()
        self.errors += job.errors

    def _detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return list(self._stream(images))

    def _stream(self, images: Iterable) -> Iterator[Detections]:
        stream = self.predictor.stream(images, batch_size=self.batch_size, tiling=self.tiling, skip=self.errors.append)
        for detections in stream:
            yield detections.filter_classes(self.classes) if self.classes else detections

    def _progress(self, stream: Iterator[Detections], total: int | None, unit: str) -> Iterator[Detections]:
        for detections in tqdm(stream, total=total, unit=unit):
            self._count += 1
            yield detections


def _expand_pattern(source: str) -> list[str]:
    """Return the images and videos that a pattern matches; other sources, and patterns that match none, are unchanged."""
    if is_address(source) or Path(source).exists() or not glob.has_magic(source):
        return [source]
    files = sorted(file for file in glob.glob(source, recursive=True) if Path(file).is_file())
    return [file for file in files if is_video(file) or is_image(Path(file))] or [source]


def _check_inputs_are_kept(inputs: "_Inputs", folder: Path, formats: Sequence[str]) -> None:
    """Raise ConfigError if results would replace images, their labels or videos among the inputs.

    Results have the names of the inputs. For example, images in ``data/images`` would be replaced with ``--output data``.
    """
    image_folders = {Path(image).resolve().parent for image in inputs.images if isinstance(image, str | Path)}
    written = {(folder / kind).resolve() for kind in ("images", "masks") if kind in formats}
    labels = folder / "labels"
    has_labels = "yolo" in formats and labels.is_dir() and any(labels.iterdir())
    replaces_labels = has_labels and (folder / "images").resolve() in image_folders
    videos = (
        {Path(source).resolve() for source, video in inputs.videos if video is None} if "images" in formats else set()
    )
    replaced_videos = [path for path in videos if (folder / f"{path.stem}.mp4").resolve() == path]
    if image_folders & written or replaces_labels or replaced_videos:
        raise ConfigError(f"--output={folder}: the results would replace files of the input; choose another folder")


# Files that writers create in the output folder.
_RESULT_FILES = {
    "yolo": ["classes.txt"],
    "coco": ["coco.json"],
    "csv": ["detections.csv"],
    "cvat": ["cvat.xml"],
    "labelstudio": ["label_studio.json"],
}


def _check_files_are_kept(inputs: "_Inputs", folder: Path, formats: Sequence[str]) -> None:
    """Raise ConfigError if images are read from the output folder, and a result would replace a file there.

    The folder is then likely a dataset, whose files may have the same names.
    """
    files = [
        Path(image).resolve() for image in inputs.images if isinstance(image, str | Path) and not is_address(str(image))
    ]
    if not any(folder.resolve() in file.parents for file in files):
        return
    for name in (name for kind in formats for name in _RESULT_FILES.get(kind, ())):
        if (folder / name).exists():
            raise ConfigError(f"--output={folder}: {folder / name} exists and would be replaced; choose another folder")


@dataclass
class _Inputs:
    """Sources by kind; streams, and videos with an address, are already open."""

    images: list = field(default_factory=list)
    videos: list[tuple[str, Video | None]] = field(default_factory=list)
    live: list[tuple[str, Video]] = field(default_factory=list)
    num_errors: int = 0

    @property
    def count(self) -> int:
        return len(self.images) + len(self.videos) + len(self.live) + self.num_errors

    @property
    def description(self) -> str:
        if self.live or self.num_errors:
            return "sources"
        return "images and videos" if self.videos else "images"
