"""From pictures to boxes, in one class."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from detectron2.structures import Instances

from deim.devices import choose_device
from deim.errors import ConfigError, DatasetError
from deim.inference.detections import Detections
from deim.inference.exported import is_exported, load_exported
from deim.inference.pictures import CHANNELS, Picture, as_rgb, listed, name_of
from deim.inference.runner import Runner, TorchRunner
from deim.inference.source import load_trained
from deim.inference.tiling import Tiling, View, merged


class Predictor:
    """A trained detector.

    Three lines are enough:

        predictor = Predictor("output/deim_dfine_s_coco/model_best.pth")
        detections = predictor("street.jpg")
        detections.draw().save("found.png")

    Args:
        model: a checkpoint, of this package or of others (see docs/checkpoints.md), or an exported file (``.onnx``, or
            ``.xml`` of OpenVINO), which know their classes; or a config file or the name of
            a recipe, with ``weights``.
        weights: of a recipe: a checkpoint, or "coco" and the like for published ones (see docs/checkpoints.md).
        device: such as "cuda:1"; "auto" takes a GPU if there is one.
        threshold: detections of a lower score are left out.
        half: compute in float16 where torch deems it safe; for GPUs. Not of exported files, which are what they are.
        compile: by ``torch.compile``: faster, after a minute for each size of batch. Not of exported files.
        cuda_graph: on a GPU, let it do at once what it did for the first batch of a size: several times as fast for single
            pictures. Not of exported files.

    Raises:
        DeimError: the model cannot be had; says why.
    """

    def __init__(
        self,
        model: str | Path,
        weights: str | Path | None = None,
        *,
        device: str = "auto",
        threshold: float = 0.4,
        half: bool = False,
        compile: bool = False,
        cuda_graph: bool = False,
    ):
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold={threshold} is no score: it must be between 0 and 1")
        self.threshold = threshold
        self.runner: Runner
        if is_exported(model):
            if weights is not None or half or compile or cuda_graph:
                raise ConfigError(
                    f"{model} is exported with its weights and as it is: weights, half, compile, cuda_graph are of others"
                )
            self.runner = load_exported(str(model), device)
        else:
            place = choose_device(device)
            trained = load_trained(str(model), None if weights is None else str(weights), str(place))
            self.runner = TorchRunner(trained, place, half, compile, cuda_graph)

    @property
    def class_names(self) -> list[str]:
        return self.runner.class_names

    def __call__(self, picture: Picture, *, channels: str = "RGB") -> Detections:
        """The detections of one picture; see :meth:`stream`."""
        found = self.predict(picture, channels=channels)
        if len(found) != 1:
            raise DatasetError(f"this is for one picture, and these are {len(found)}: use predict")
        return found[0]

    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        batch_size: int = 8,
        channels: str = "RGB",
        tiling: Tiling | None = None,
    ) -> list[Detections]:
        """The detections of each picture, in order; see :meth:`stream`."""
        return list(self.stream(pictures, batch_size=batch_size, channels=channels, tiling=tiling))

    def stream(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        batch_size: int = 8,
        channels: str = "RGB",
        tiling: Tiling | None = None,
        skip: Callable[[DatasetError], None] | None = None,
    ) -> Iterator[Detections]:
        """Detections as they come, in order; for more pictures than fit into memory.

        Args:
            pictures: a file, a folder, a pattern such as ``"photos/*.jpg"``, a picture of PIL, a uint8 array
                (H, W, 3) or tensor (3, H, W), or any number of these.
            batch_size: how many go through the model together.
            channels: order of those of arrays and tensors, "RGB" or "BGR".
            tiling: look at parts of large pictures as well, for small objects.
            skip: called with the error of a picture that cannot be read, which is then left out. Without it,
                the error is raised.

        Raises:
            DatasetError: see ``skip``.
            ConfigError: ``channels`` or ``batch_size`` makes no sense.
        """
        if channels not in CHANNELS:
            raise ConfigError(f"channels={channels!r}; choose one of {', '.join(CHANNELS)}")
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        readable = self._read(listed(pictures), channels, skip)
        while batch := list(itertools.islice(readable, batch_size)):
            yield from self._detect(batch, tiling, batch_size)

    def _read(
        self, pictures: Iterable[Picture], channels: str, skip: Callable[[DatasetError], None] | None
    ) -> Iterator[tuple[np.ndarray, str | None]]:
        for picture in pictures:
            try:
                image = as_rgb(picture, channels)
            except DatasetError as error:
                if skip is None:
                    raise
                skip(error)
            else:
                yield image, name_of(picture)

    def _detect(
        self, batch: list[tuple[np.ndarray, str | None]], tiling: Tiling | None, batch_size: int
    ) -> Iterator[Detections]:
        views = [_views(image, tiling) for image, _ in batch]
        parts = [
            image[top:bottom, left:right]
            for (image, _), places in zip(batch, views, strict=True)
            for left, top, right, bottom in places
        ]
        found = self._run(parts, batch_size)
        for (image, name), places in zip(batch, views, strict=True):
            own = list(itertools.islice(found, len(places)))
            size = (image.shape[0], image.shape[1])
            yield Detections.of(own[0] if len(own) == 1 else merged(own, places, size), self.class_names, image, name)

    def _run(self, images: list[np.ndarray], batch_size: int) -> Iterator[Instances]:
        """Detections of at least the threshold's score."""
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            prepared = [self.runner.prepare(image) for image in part]
            for instances in self.runner(prepared, [(image.shape[0], image.shape[1]) for image in part]):
                yield instances[instances.scores >= self.threshold]


def _views(image: np.ndarray, tiling: Tiling | None) -> list[View]:
    height, width = image.shape[:2]
    return [(0, 0, width, height)] if tiling is None else tiling.views(height, width)
