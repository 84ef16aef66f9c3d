"""Prediction on many images and videos, with results written to files."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deim.errors import DatasetError
from deim.inference.detections import Detections, class_indices
from deim.inference.pictures import listed
from deim.inference.predictor import Predictor
from deim.inference.tiling import Tiling
from deim.inference.video import Video, VideoWriter, is_video
from deim.inference.writers import Names, Writer, open_writers


class Job:
    """Prediction job: writes the detections of all images and videos.

    Args:
        kinds: kinds of files to write; see :data:`deim.inference.writers.WRITERS`.
        folder: output directory.
        classes: names of the classes to keep; empty for all.
        batch_size, tiling: see :meth:`Predictor.stream`.

    Raises:
        ConfigError: if the model does not have one of the classes, or the directory is not writable.
    """

    def __init__(
        self,
        predictor: Predictor,
        kinds: Sequence[str],
        folder: str,
        classes: Sequence[str] = (),
        batch_size: int = 8,
        tiling: Tiling | None = None,
    ):
        class_indices(classes, predictor.class_names)
        self.predictor, self.folder, self.classes = predictor, Path(folder), classes
        self.batch_size, self.tiling, self.kinds = batch_size, tiling, kinds
        self.failures: list[DatasetError] = []
        self._names, self._count = Names(), 0
        self._writers: list[Writer] = []

    def run(self, sources: Sequence[str]) -> int:
        """Process all sources and return the number of images and frames.

        Raises:
            DatasetError: if some sources could not be read; raised after all others are processed, and lists them.
        """
        videos = [source for source in sources if is_video(source)]
        pictures = list(listed([source for source in sources if not is_video(source)]))
        self._writers = open_writers(self.kinds, self.folder, self.predictor.class_names)
        try:
            self._pictures(pictures)
            for source in videos:
                self._video(source)
        finally:
            for writer in self._writers:
                writer.close()
        if self.failures:
            listing = "\n".join(f"  {failure}" for failure in self.failures)
            raise DatasetError(
                f"{len(self.failures)} of {self._count + len(self.failures)} images could not be read:\n{listing}"
            )
        return self._count

    def _pictures(self, pictures: Sequence) -> None:
        if not pictures:
            return
        for found in self._progress(self._stream(pictures), len(pictures), "image"):
            name = self._names.of(found.file_name, self._count)
            for writer in self._writers:
                writer.add(found, name)

    def _video(self, source: str) -> None:
        video = Video(source)
        name = self._names.of(None if source.isdigit() else source, self._count)
        drawing = VideoWriter(self.folder / f"{name}.mp4", video.fps) if "pictures" in self.kinds else None
        others = [w for kind, w in zip(self.kinds, self._writers, strict=True) if kind != "pictures"]
        try:
            frames = self._progress(self._stream(video), video.count, "frame")
            for number, found in enumerate(frames):
                for writer in others:
                    writer.add(found, f"{name}_{number:06d}")
                if drawing is not None:
                    drawing.add(np.asarray(found.draw()))
        except KeyboardInterrupt:  # the usual way to stop a camera
            print(f"stopped: keeping the results of {source} so far", file=sys.stderr)
        finally:
            if drawing is not None:
                drawing.close()

    def _stream(self, pictures: Iterable) -> Iterator[Detections]:
        stream = self.predictor.stream(
            pictures, batch_size=self.batch_size, tiling=self.tiling, skip=self.failures.append
        )
        for found in stream:
            yield found.of_classes(self.classes) if self.classes else found

    def _progress(self, stream: Iterator[Detections], total: int | None, unit: str) -> Iterator[Detections]:
        for found in tqdm(stream, total=total, unit=unit):
            self._count += 1
            yield found
