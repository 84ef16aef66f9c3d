"""Predictor: from images to detections."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances

from deim.checkpoint.hub import pretrained_path
from deim.devices import choose_device
from deim.errors import ConfigError, DatasetError
from deim.inference.detections import Detections
from deim.inference.ensemble import FusedRunner, TestTimeAugmentation
from deim.inference.exported_runner import is_exported, load_exported
from deim.inference.images import CHANNEL_ORDERS, ImageLike, as_rgb, image_path, iterate_images
from deim.inference.runner import Runner, TorchRunner
from deim.inference.tiling import Tiling, View, merge_views
from deim.inference.tracking import TrackingSettings, track
from deim.inference.trained_model import load_trained
from deim.inference.video import DEFAULT_FPS, Frame


class Predictor:
    """Trained detector for prediction.

        predictor = Predictor("output/deim_dfine_s_coco/model_best.pth")
        detections = predictor("street.jpg")
        detections.draw().save("found.png")

    Args:
        model: checkpoint of this package or another supported one (see docs/checkpoints.md), also as
            ``hf://user/model``; exported file (``.onnx``, or ``.xml`` for OpenVINO); or, together with ``weights``, a
            config file or recipe name.
        weights: weights of a recipe: a checkpoint, or a name of published weights such as "coco" (see
            docs/checkpoints.md).
        device: torch device, such as "cuda:1"; "auto" selects a GPU if available.
        threshold: minimum score of detections, in [0, 1].
        half: use float16 autocast, on a GPU. Not for exported files.
        compile: use ``torch.compile``: faster, after about a minute of compilation per batch size. Not for exported
            files.
        cuda_graph: replay the model as a CUDA graph, on a GPU: several times faster for single images. Not for
            exported files.
        tta: test-time augmentation: fuse the detections in several views of each image; None for the image itself.

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
        tta: TestTimeAugmentation | None = None,
    ):
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold={threshold} must be between 0 and 1")
        self.threshold = threshold
        self.runner: Runner = _load_runner(model, weights, device, half, compile, cuda_graph)
        if tta is not None:
            self.runner = FusedRunner([self.runner], tta)

    @classmethod
    def ensemble(
        cls, models: Sequence[str | Path], *, tta: TestTimeAugmentation | None = None, **options: Any
    ) -> "Predictor":
        """Load several models with the same classes, whose detections are fused.

            predictor = Predictor.ensemble(["first/model_best.pth", "second/model_best.pth"])

        Args:
            models: checkpoints or exported files.
            tta: test-time augmentation of every model.
            options: ``weights`` of the first model, and ``device``, ``threshold``, ``half``, ``compile`` and
                ``cuda_graph`` of all models; see the constructor.

        Raises:
            DeimError: if a model cannot be loaded, or the classes differ.
        """
        if not models:
            raise ConfigError("an ensemble needs at least one model")
        predictor = cls(models[0], **options)
        names = ("device", "half", "compile", "cuda_graph")
        further = {name: options[name] for name in names if name in options}
        others = [cls(model, **further).runner for model in models[1:]]
        predictor.runner = FusedRunner([predictor.runner, *others], tta)
        return predictor

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "Predictor":
        """Load a model from a repository of the Hugging Face Hub, or from a folder with its files.

            predictor = Predictor.from_pretrained("user/model")

        Repositories of ``deim push``, of DEIMv2 and ECDet, and of D-FINE, RT-DETR, RT-DETRv2 and Deformable DETR in
        ``transformers`` are supported. Only safetensors files are read, and no code of a repository runs.

        Args:
            name: ``"user/model"``, ``"user/model@revision"``, or a folder.
            options: ``device``, ``threshold``, ``half``, ``compile`` and ``cuda_graph`` of the constructor.

        Raises:
            DeimError: if the repository cannot be downloaded, or the model cannot be loaded.
        """
        return cls(pretrained_path(name), **options)

    @property
    def class_names(self) -> list[str]:
        return self.runner.class_names

    def __call__(self, image: ImageLike, *, channels: str = "RGB") -> Detections:
        """Return the detections in one image; see :meth:`stream`."""
        detections = self.predict(image, channels=channels)
        if len(detections) != 1:
            raise DatasetError(f"expected one image, got {len(detections)}: use predict for several images")
        return detections[0]

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 8,
        channels: str = "RGB",
        tiling: Tiling | None = None,
    ) -> list[Detections]:
        """Return the detections in each image, in order; see :meth:`stream`."""
        return list(self.stream(images, batch_size=batch_size, channels=channels, tiling=tiling))

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 8,
        channels: str = "RGB",
        tiling: Tiling | None = None,
        skip: Callable[[DatasetError], None] | None = None,
    ) -> Iterator[Detections]:
        """Yield the detections in each image, in order; for more images than fit into memory.

        Args:
            images: file, directory, pattern such as ``"photos/*.jpg"``, PIL image, uint8 array (H, W, 3) or tensor
                (3, H, W); or an iterable of these.
            batch_size: number of images per forward pass.
            channels: channel order of arrays and tensors, "RGB" or "BGR".
            tiling: also detect in tiles of large images, to find small objects.
            skip: called with the error of each image that cannot be read, which is then skipped. If None, the error
                is raised.

        Raises:
            DatasetError: if an image cannot be read and ``skip`` is None; with any ``skip``, if a directory or pattern
                has no images.
            ConfigError: if ``channels`` or ``batch_size`` is invalid.
        """
        if channels not in CHANNEL_ORDERS:
            raise ConfigError(f"channels={channels!r}; choose one of {', '.join(CHANNEL_ORDERS)}")
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        readable = self._read(iterate_images(images), channels, skip)
        while batch := list(itertools.islice(readable, batch_size)):
            yield from self._detect(batch, tiling, batch_size)

    def track(
        self,
        source: str | Path | Iterable[ImageLike | Frame],
        *,
        fps: float = DEFAULT_FPS,
        settings: TrackingSettings | None = None,
        batch_size: int = 1,
        channels: str = "RGB",
        tiling: Tiling | None = None,
    ) -> Iterator[Detections]:
        """Yield the tracked objects in each frame of a video or stream: detections with ``track_ids``.

        Every call starts with new tracks.

        Args:
            source: video file, camera index, address of a stream, or directory with frames; or an iterable of images or
                :class:`~deim.inference.video.Frame`.
            fps: frames per second of images, and nominal ones of frames.
            settings: settings of the tracker.
            batch_size, channels, tiling: see :meth:`stream`.

        Raises:
            ConfigError: if the package trackers is not installed.
            DatasetError: if the source cannot be read.
        """
        return track(self, source, fps=fps, settings=settings, batch_size=batch_size, channels=channels, tiling=tiling)

    def _read(
        self, images: Iterable[ImageLike], channels: str, skip: Callable[[DatasetError], None] | None
    ) -> Iterator[tuple[np.ndarray, str | None]]:
        for image in images:
            try:
                array = as_rgb(image, channels)
            except DatasetError as error:
                if skip is None:
                    raise
                skip(error)
            else:
                yield array, image_path(image)

    def _detect(
        self, batch: list[tuple[np.ndarray, str | None]], tiling: Tiling | None, batch_size: int
    ) -> Iterator[Detections]:
        views = [_views(image, tiling) for image, _ in batch]
        crops = [
            image[top:bottom, left:right]
            for (image, _), image_views in zip(batch, views, strict=True)
            for left, top, right, bottom in image_views
        ]
        instances = self._run(crops, batch_size)
        for (image, path), image_views in zip(batch, views, strict=True):
            view_instances = list(itertools.islice(instances, len(image_views)))
            size = (image.shape[0], image.shape[1])
            merged = view_instances[0] if len(view_instances) == 1 else merge_views(view_instances, image_views, size)
            yield Detections.from_instances(merged, self.class_names, image, path, self.runner.skeleton)

    def _run(self, images: list[np.ndarray], batch_size: int) -> Iterator[Instances]:
        """Run the model in batches; yield the detections of at least the threshold."""
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            inputs = [self.runner.prepare(image) for image in batch]
            sizes = [(image.shape[0], image.shape[1]) for image in batch]
            yield from self.runner(inputs, sizes, self.threshold)


def _load_runner(
    model: str | Path, weights: str | Path | None, device: str, half: bool, compile: bool, cuda_graph: bool
) -> Runner:
    if is_exported(model):
        if weights is not None or half or compile or cuda_graph:
            raise ConfigError(
                f"{model} is an exported file: weights, half, compile and cuda_graph cannot be set for it"
            )
        return load_exported(str(model), device)
    torch_device = choose_device(device)
    trained = load_trained(str(model), None if weights is None else str(weights), str(torch_device))
    return TorchRunner(trained, torch_device, half, compile, cuda_graph)


def _views(image: np.ndarray, tiling: Tiling | None) -> list[View]:
    height, width = image.shape[:2]
    return [(0, 0, width, height)] if tiling is None else tiling.views(height, width)
