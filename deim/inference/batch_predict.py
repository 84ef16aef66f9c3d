"""Prediction on many images and videos, with results written to files."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deim.errors import DatasetError
from deim.inference.detections import Detections, class_indices
from deim.inference.images import iterate_images
from deim.inference.predictor import Predictor
from deim.inference.tiling import Tiling
from deim.inference.video import Video, VideoWriter, is_camera, is_video
from deim.inference.writers import DetectionWriter, UniqueNames, open_writers


class PredictionJob:
    """Prediction job: writes the detections of all images and videos.

    Args:
        formats: output formats; see :data:`deim.inference.writers.WRITERS`.
        folder: output directory.
        classes: names of the classes to keep; empty for all.
        batch_size, tiling: see :meth:`Predictor.stream`.

    Raises:
        ConfigError: if the model does not have one of the classes, or the directory is not writable.
    """

    def __init__(
        self,
        predictor: Predictor,
        formats: Sequence[str],
        folder: str,
        classes: Sequence[str] = (),
        batch_size: int = 8,
        tiling: Tiling | None = None,
    ):
        class_indices(classes, predictor.class_names)
        self.predictor, self.folder, self.classes = predictor, Path(folder), classes
        self.batch_size, self.tiling, self.formats = batch_size, tiling, list(dict.fromkeys(formats))
        self.errors: list[DatasetError] = []
        self._names, self._count = UniqueNames(), 0
        self._writers: list[DetectionWriter] = []

    def run(self, sources: Sequence[str]) -> int:
        """Process all sources and return the number of images and frames.

        Raises:
            DatasetError: if a directory or pattern has no images; raised before the prediction. If images or videos
                cannot be read: raised after all others are processed, with a list of them.
        """
        videos = [source for source in sources if is_video(source)]
        images = list(iterate_images([source for source in sources if not is_video(source)]))
        self._writers = open_writers(self.formats, self.folder, self.predictor.class_names)
        try:
            self._predict_images(images)
            for source in videos:
                try:
                    self._predict_video(source)
                except DatasetError as error:
                    self.errors.append(error)
        finally:
            for writer in self._writers:
                writer.close()
        if self.errors:
            listing = "\n".join(f"  {error}" for error in self.errors)
            inputs = "images and videos" if videos else "images"
            count = len(images) + len(videos)
            raise DatasetError(f"{len(self.errors)} of {count} {inputs} could not be read:\n{listing}")
        return self._count

    def _predict_images(self, images: Sequence) -> None:
        if not images:
            return
        for detections in self._progress(self._stream(images), len(images), "image"):
            name = self._names.name_for(detections.file_name, self._count)
            for writer in self._writers:
                writer.add(detections, name)

    def _predict_video(self, source: str) -> None:
        video = Video(source)
        name = self._names.name_for(None if is_camera(source) else source, self._count)
        video_writer = VideoWriter(self.folder / f"{name}.mp4", video.fps) if "images" in self.formats else None
        frame_writers = [writer for kind, writer in zip(self.formats, self._writers, strict=True) if kind != "images"]
        try:
            frames = self._progress(self._stream(video), video.num_frames, "frame")
            for number, detections in enumerate(frames):
                for writer in frame_writers:
                    writer.add(detections, f"{name}_{number:06d}")
                if video_writer is not None:
                    video_writer.add(np.asarray(detections.draw()))
        except KeyboardInterrupt:  # the usual way to stop a camera
            print(f"stopped: keeping the results of {source} so far", file=sys.stderr)
        finally:
            if video_writer is not None:
                video_writer.close()

    def _stream(self, images: Iterable) -> Iterator[Detections]:
        stream = self.predictor.stream(images, batch_size=self.batch_size, tiling=self.tiling, skip=self.errors.append)
        for detections in stream:
            yield detections.filter_classes(self.classes) if self.classes else detections

    def _progress(self, stream: Iterator[Detections], total: int | None, unit: str) -> Iterator[Detections]:
        for detections in tqdm(stream, total=total, unit=unit):
            self._count += 1
            yield detections
