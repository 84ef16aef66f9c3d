"""Test-time augmentation and ensembles: detections of several views of an image, and of several models, are fused."""

import copy
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from deim.data.datasets.keypoints import find_flip_pairs
from deim.data.image import read_image
from deim.data.mapper import DetectionMapper
from deim.errors import ConfigError
from deim.inference.fusion import BoxFusion
from deim.inference.runner import Runner, TorchRunner

# The sides of scaled images are multiples of this number of pixels, the largest stride of the models.
_STRIDE = 32
# Detections with a lower score hardly change a fused one.
_MIN_SCORE = 0.05


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views of an image at which a model detects.

    Attributes:
        flip: whether to also detect in the mirrored image.
        scales: factors of the model's input size.
    """

    __test__ = False  # not a test case of pytest

    flip: bool = True
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 4 for scale in self.scales):
            raise ConfigError(f"scales={list(self.scales)} of test-time augmentation must be between 0.1 and 4")


def requested_augmentation(args: Namespace) -> TestTimeAugmentation | None:
    """Return the test-time augmentation of ``--tta`` and ``--tta-scales``; None without both options."""
    scales = getattr(args, "tta_scales", None)
    if scales is None:
        return TestTimeAugmentation() if getattr(args, "tta", False) else None
    return TestTimeAugmentation(flip=args.tta, scales=scales)


@dataclass(frozen=True)
class _View:
    """Model with the view of an image at which it detects."""

    runner: Runner
    mapper: DetectionMapper | None = None
    is_mirrored: bool = False

    def __call__(self, images: Sequence[np.ndarray], sizes: list[tuple[int, int]], threshold: float) -> list[Instances]:
        prepare = self.runner.prepare if self.mapper is None else self.mapper.map_image
        inputs = [prepare(np.ascontiguousarray(image[:, ::-1]) if self.is_mirrored else image) for image in images]
        instances = self.runner(inputs, sizes, threshold)
        return [self._mirror(detections) for detections in instances] if self.is_mirrored else instances

    def _mirror(self, instances: Instances) -> Instances:
        width = instances.image_size[1]
        left, top, right, bottom = instances.pred_boxes.tensor.unbind(dim=1)
        instances.pred_boxes = Boxes(torch.stack([width - right, top, width - left, bottom], dim=1))
        if instances.has("pred_masks"):
            instances.pred_masks = instances.pred_masks.flip(-1)
        if instances.has("pred_keypoints"):
            points = instances.pred_keypoints.clone()
            points[..., 0] = width - points[..., 0]
            instances.pred_keypoints = points[:, _mirrored_keypoints(self.runner, points.shape[1])]
        return instances


def _mirrored_keypoints(runner: Runner, count: int) -> list[int]:
    """Return the index of the keypoint that each keypoint becomes in a mirrored image."""
    names = list(runner.skeleton.names) if runner.skeleton is not None else []
    flip_pairs = None if runner.skeleton is None else runner.skeleton.flip_pairs
    if flip_pairs is None:
        flip_pairs = tuple((names.index(first), names.index(second)) for first, second in find_flip_pairs(names))
    indices = list(range(count))
    for first, second in flip_pairs:
        indices[first], indices[second] = second, first
    return indices


@dataclass
class FusedRunner:
    """:class:`~deim.inference.runner.Runner` that fuses the detections of several models and views.

    Args:
        runners: models with the same classes.
        augmentation: views of every model; None for the image itself.
        fusion: settings of the fusion.

    Raises:
        ConfigError: if the classes of the models differ, or a model cannot process scaled images.
    """

    runners: Sequence[Runner]
    augmentation: TestTimeAugmentation | None = None
    fusion: BoxFusion = field(default_factory=BoxFusion)

    def __post_init__(self) -> None:
        first, *others = self.runners
        for other in others:
            if other.class_names != first.class_names:
                raise ConfigError(
                    "the models of an ensemble need the same classes in the same order; the first has "
                    f"{', '.join(first.class_names)}, another one {', '.join(other.class_names)}"
                )
        self.class_names = first.class_names
        self.skeleton = first.skeleton if all(other.skeleton == first.skeleton for other in others) else None
        self._views = [view for runner in self.runners for view in _views(runner, self.augmentation)]
        self.description = f"{first.description}, {len(self._views)} forward passes per image"

    def prepare(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)

    def __call__(self, images: list[Tensor], sizes: list[tuple[int, int]], threshold: float = 0.0) -> list[Instances]:
        arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
        parts = [view(arrays, sizes, min(threshold, _MIN_SCORE)) for view in self._views]
        fused = []
        for image_parts in zip(*parts, strict=True):
            # Without a threshold, as in evaluations, a model returns a fixed number of detections, and so do several.
            limit = None if threshold > 0 else max(len(part) for part in image_parts)
            detections = self.fusion.fuse(image_parts, limit)
            fused.append(detections[detections.scores >= threshold])
        return fused


def _views(runner: Runner, augmentation: TestTimeAugmentation | None) -> list[_View]:
    if augmentation is None:
        return [_View(runner)]
    flips = (False, True) if augmentation.flip else (False,)
    return [
        _View(runner, None if scale == 1 else _scaled_mapper(runner, scale), is_mirrored)
        for scale in augmentation.scales
        for is_mirrored in flips
    ]


def _scaled_mapper(runner: Runner, scale: float) -> DetectionMapper:
    """Return the mapper of a model whose images have other sizes.

    Raises:
        ConfigError: if the model is an exported file, or its images are not resized by detectron2's ``Resize`` or
            ``ResizeShortestEdge``.
    """
    if not isinstance(runner, TorchRunner):
        raise ConfigError("exported files have a fixed input size: use test-time augmentation with scale 1 only")
    mapper = copy.copy(runner.mapper)
    mapper.augmentations = [_scale(augmentation, scale) for augmentation in mapper.augmentations]
    if all(new is old for new, old in zip(mapper.augmentations, runner.mapper.augmentations, strict=True)):
        raise ConfigError("dataloader.test.mapper has no Resize or ResizeShortestEdge, which scales need")
    return mapper


def _scale(augmentation: T.Augmentation, scale: float) -> T.Augmentation:
    settings: Any = augmentation  # detectron2 sets the attributes by their names
    if isinstance(augmentation, T.Resize):
        height, width = (max(round(side * scale / _STRIDE), 1) * _STRIDE for side in settings.shape)
        return T.Resize((height, width), settings.interp)
    if isinstance(augmentation, T.ResizeShortestEdge):
        lengths = [round(length * scale) for length in settings.short_edge_length]
        style = "range" if settings.is_range else "choice"
        return T.ResizeShortestEdge(lengths, round(settings.max_size * scale), style, settings.interp)
    return augmentation


class FusedDetector(nn.Module):
    """Model for evaluators that runs a :class:`FusedRunner` on the image files of a batch.

    Args:
        runner: models and views.
    """

    def __init__(self, runner: FusedRunner):
        super().__init__()
        self.runner = runner

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Instances]]:
        """Return the detections of the images.

        Args:
            batched_inputs: one dict per image: ``file_name``, and the ``height`` and ``width`` of the file.
        """
        sizes = [(int(image_input["height"]), int(image_input["width"])) for image_input in batched_inputs]
        files = [image_input["file_name"] for image_input in batched_inputs]
        images = [self.runner.prepare(read_image(file, size)) for file, size in zip(files, sizes, strict=True)]
        return [{"instances": instances} for instances in self.runner(images, sizes)]
