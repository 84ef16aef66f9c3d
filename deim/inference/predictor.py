"""Predictor: from images to detections."""

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
    """Trained detector for prediction.

        predictor = Predictor("output/deim_dfine_s_coco/model_best.pth")
        detections = predictor("street.jpg")
        detections.draw().save("found.png")

    Args:
        model: checkpoint of this package or another supported one (see docs/checkpoints.md); exported file (``.onnx``,
            or ``.xml`` for OpenVINO); or, together with ``weights``, a config file or recipe name.
        weights: weights of a recipe: a checkpoint, or a name of published weights such as "coco" (see
            docs/checkpoints.md).
        device: torch device, such as "cuda:1"; "auto" selects a GPU if available.
        threshold: minimum score of detections, in [0, 1].
        half: use float16 autocast, on a GPU. Not for exported files.
        compile: use ``torch.compile``: faster, after about a minute of compilation per batch size. Not for exported
            files.
        cuda_graph: replay the model as a CUDA graph, on a GPU: several times faster for single images. Not for
            exported files.

    Raises:
        DeimError: if the model cannot be loaded.
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
            raise ConfigError(f"threshold={threshold} must be between 0 and 1")
        self.threshold = threshold
        self.runner: Runner
        if is_exported(model):
            if weights is not None or half or compile or cuda_graph:
                raise ConfigError(
                    f"{model} is an exported file: weights, half, compile and cuda_graph cannot be set for it"
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
        """Return the detections in one image; see :meth:`stream`."""
        found = self.predict(picture, channels=channels)
        if len(found) != 1:
            raise DatasetError(f"expected one image, got {len(found)}: use predict for several images")
        return found[0]

    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        batch_size: int = 8,
        channels: str = "RGB",
        tiling: Tiling | None = None,
    ) -> list[Detections]:
        """Return the detections in each image, in order; see :meth:`stream`."""
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
        """Yield the detections in each image, in order; for more images than fit into memory.

        Args:
            pictures: file, directory, pattern such as ``"photos/*.jpg"``, PIL image, uint8 array (H, W, 3) or tensor
                (3, H, W); or an iterable of these.
            batch_size: number of images per forward pass.
            channels: channel order of arrays and tensors, "RGB" or "BGR".
            tiling: also detect in tiles of large images, to find small objects.
            skip: called with the error of each image that cannot be read, which is then skipped. If None, the error
                is raised.

        Raises:
            DatasetError: if an image cannot be read and ``skip`` is None.
            ConfigError: if ``channels`` or ``batch_size`` is invalid.
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
        """Run the model in batches and drop detections below the threshold."""
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            prepared = [self.runner.prepare(image) for image in part]
            for instances in self.runner(prepared, [(image.shape[0], image.shape[1]) for image in part]):
                yield instances[instances.scores >= self.threshold]


def _views(image: np.ndarray, tiling: Tiling | None) -> list[View]:
    height, width = image.shape[:2]
    return [(0, 0, width, height)] if tiling is None else tiling.views(height, width)
