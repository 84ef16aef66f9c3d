"""Augmentation stages of DEIM and D-FINE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data.transforms import Augmentation

from deim.data.augmentation import Resize
from deim.data.geometry import LazyImage, rgb_to_rgba, rgba_to_rgb
from deim.data.image import ImageReader, read_image
from deim.data.instance_fields import InstanceFields
from deim.data.iteration import IterationEstimator
from deim.data.mapper import DetectionMapper
from deim.data.mosaic import Mosaic
from deim.data.object_shapes import ObjectShapes
from deim.data.records import Records
from deim.data.sampler import seeded_generators
from deim.errors import ConfigError
from deim.schedule import Schedule, Stage


def multi_scale_sizes(base_size: int, repeat: int | None) -> list[int]:
    """Return the image sides for multi-scale training: 0.75 to 1.25 times ``base_size`` in steps of 32 pixels.

    As in the official code, both ends are rounded down to multiples of 32.

    Args:
        base_size: side in pixels.
        repeat: number of times that ``base_size`` itself is repeated in the list, which raises its probability; None
            returns only ``base_size``.
    """
    if repeat is None:
        return [base_size]
    low, high = int(base_size * 0.75 / 32) * 32, int(base_size * 1.25 / 32) * 32
    steps = (base_size - low) // 32
    below = [low + 32 * i for i in range(steps)]
    above = [high - 32 * i for i in range(steps)]
    return below + [base_size] * repeat + above


@dataclass
class _ExternalLoaderState:
    """State of a mapper whose data loader passes only a record, not the iteration."""

    records: Records
    iters_per_epoch: int
    estimator: IterationEstimator


class StagedMapper:
    """Mapper whose augmentation follows the stages of the schedule.

    =======  ==================================================================================================
    stage    augmentation
    =======  ==================================================================================================
    PLAIN    ``weak``
    DENSE    mosaic, ``color``, ``weak`` with probability ``mosaic_prob``; else ``color``, ``strong``, ``weak``
    STRONG   ``color``, ``strong``, ``weak``
    FINAL    ``weak``
    =======  ==================================================================================================

    The last step is a resize. By default all images of an iteration get the same size: a random one, or ``shape`` in
    the FINAL stage. With ``resize``, each image gets its own size, except in the DENSE stage and in the epochs of a batch
    operation, which combine images.

    Args:
        schedule: schedule of the run.
        shape: (height, width) of images in evaluation.
        color, strong: detectron2 augmentations of the stages DENSE and STRONG.
        weak: detectron2 augmentations of every stage.
        mosaic: mosaic augmentation; None disables it.
        mosaic_prob: probability of a mosaic in the DENSE stage.
        multi_scale_repeat: see :func:`multi_scale_sizes`; None trains at a single size.
        resize: augmentations that resize each image individually (DETR); None uses one size per iteration.
        img_format, min_box_size, read, image_format: see :class:`deim.data.mapper.DetectionMapper`.
        masks, keypoints, mask_stride, mask_format, dataset_name: see :class:`deim.data.mapper.DetectionMapper`.
        keypoint_hflip_indices, areas: see :class:`deim.data.mapper.DetectionMapper`.
        dataset, total_batch_size: records, and images per iteration over all ranks. Required only with data loaders
            other than :func:`deim.data.build_train_loader`, which call the mapper with only a record.

    Raises:
        ConfigError: if ``mosaic_prob`` is not a probability, or a value of the masks and keypoints is not valid.
    """

    def __init__(
        self,
        schedule: Schedule,
        shape: Sequence[int],
        color: Sequence[Augmentation] = (),
        strong: Sequence[Augmentation] = (),
        weak: Sequence[Augmentation] = (),
        mosaic: Mosaic | None = None,
        mosaic_prob: float = 0.5,
        multi_scale_repeat: int | None = None,
        resize: Sequence[Augmentation] | None = None,
        img_format: str = "RGB",
        min_box_size: float = 1.0,
        read: ImageReader = read_image,
        dataset: Sequence[dict] | None = None,
        total_batch_size: int | None = None,
        image_format: str | None = None,
        masks: bool = False,
        keypoints: bool = False,
        mask_stride: int = 1,
        mask_format: str = "bitmask",
        dataset_name: str | Sequence[str] | None = None,
        keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
        areas: bool = False,
    ):
        if not 0 <= mosaic_prob <= 1:
            raise ConfigError(f"dataloader.train.mapper.mosaic_prob must be in [0, 1], got {mosaic_prob}")
        self.schedule, self.shape = schedule, (int(shape[0]), int(shape[1]))
        self.color, self.strong, self.weak = list(color), list(strong), list(weak)
        self.mosaic, self.mosaic_prob = mosaic, mosaic_prob
        self.multi_scale_repeat = multi_scale_repeat
        self.resize = None if resize is None else list(resize)
        self.img_format, self.min_box_size, self.read = image_format or img_format, min_box_size, read
        self.fields = InstanceFields(
            masks, keypoints, mask_stride, mask_format, dataset_name, keypoint_hflip_indices, areas
        )
        self._external_loader = None
        if dataset is not None and total_batch_size is not None:
            self._external_loader = _ExternalLoaderState(
                self.fields.compact(dataset),
                max(len(dataset) // total_batch_size, 1),
                IterationEstimator(total_batch_size),
            )

    def __call__(self, record: dict) -> dict:
        """Augment a record for a detectron2 data loader, which does not provide the iteration.

        The stage follows an estimate of the iteration; see :class:`deim.data.iteration.IterationEstimator`. All images
        of an iteration have the same size. Batch operations, such as mixup, are not available: they need a whole batch.

        Args:
            record: a detectron2 record.

        Raises:
            ConfigError: if the mapper was built without ``dataset`` and ``total_batch_size``.
        """
        if self._external_loader is None:
            raise ConfigError(
                "StagedMapper was called by a data loader that does not provide the iteration; use "
                "deim.data.build_train_loader, or pass dataset= and total_batch_size= to StagedMapper to estimate it"
            )
        iteration = self._external_loader.estimator.count_sample()
        stage = self.stage_of(iteration // self._external_loader.iters_per_epoch)
        with seeded_generators(0, iteration):
            shape = self.draw_shape(stage)
        return self._mapper(stage, shape, self._external_loader.records)(record)

    def stage_of(self, epoch: int) -> Stage:
        return self.schedule.stage(epoch)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """All possible (height, width) of training images without ``resize``; both sides scale alike."""
        return [self._scaled_shape(side) for side in multi_scale_sizes(self.shape[0], self.multi_scale_repeat)]

    def _scaled_shape(self, side: int) -> tuple[int, int]:
        height, width = self.shape
        return side, round(width * side / height / 32) * 32 if side != height else width

    def draw_shape(self, stage: Stage) -> tuple[int, int]:
        """Draw the (height, width) of the images of an iteration."""
        if stage is Stage.FINAL:
            return self.shape
        return self._scaled_shape(int(np.random.choice(multi_scale_sizes(self.shape[0], self.multi_scale_repeat))))

    def mapper_for(self, stage: Stage, records: Records, combines_images: bool = False) -> Callable[[dict], dict]:
        """Return the mapper for one iteration; draws the image size.

        Args:
            stage: augmentation stage of the iteration.
            records: records from which the additional images of a mosaic are drawn.
            combines_images: whether a batch operation may combine the images, which then all get the same size.
        """
        return self._mapper(stage, self.draw_shape(stage), records, combines_images)

    def plain_mapper(self, shape: tuple[int, int]) -> DetectionMapper:
        """Return the mapper that only resizes images to ``shape``."""
        return DetectionMapper([Resize(shape)], True, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "img_format": self.img_format,
            "min_box_size": self.min_box_size,
            "read": self.read,
            **self.fields.arguments(),
        }

    def _mapper(
        self, stage: Stage, shape: tuple[int, int], records: Records, combines_images: bool = False
    ) -> Callable[[dict], dict]:
        resize = [Resize(shape)] if self.resize is None or stage is Stage.DENSE or combines_images else self.resize
        augmented = stage in (Stage.DENSE, Stage.STRONG)
        policies = [*self.color, *self.strong, *self.weak] if augmented else self.weak
        options = self._options()
        single = DetectionMapper([*policies, *resize], True, **options)
        if stage is not Stage.DENSE or self.mosaic is None:
            return single
        # The mosaic already has the output size, unless a later augmentation changes it.
        mosaic = MosaicMapper(self.mosaic, shape, [*self.color, *self.weak, Resize(shape)], records, **options)
        return lambda record: (mosaic if np.random.uniform() < self.mosaic_prob else single)(record)


class MosaicMapper(DetectionMapper):
    """Mapper that combines a record and three random ones from ``records`` into a mosaic.

    The ``file_name``, ``image_id``, ``height`` and ``width`` of the sample are those of the first image. For
    ``options``, see :class:`DetectionMapper`.
    """

    def __init__(
        self,
        mosaic: Mosaic,
        shape: tuple[int, int],
        augmentations: Sequence[Augmentation],
        records: Records,
        **options: Any,
    ):
        super().__init__(augmentations, True, **options)
        self.mosaic, self.shape, self.records = mosaic, shape, records

    def _load(self, record: dict) -> tuple[LazyImage, np.ndarray]:
        others = [self.records[int(i)] for i in np.random.randint(len(self.records), size=3)]
        records = (record, *others)
        images, classes = zip(*(DetectionMapper._load(self, tile_record) for tile_record in records), strict=True)
        transforms = self.mosaic.get_transforms([image.size for image in images], self.shape)
        # A warp of four channels is faster than one of three. A resize is not.
        is_resize = all(transform.is_axis_aligned for transform in transforms)
        canvas = np.full((*self.shape, 3 if is_resize else 4), self.mosaic.fill, np.uint8)
        boxes, shapes = [], []
        for image, transform in zip(images, transforms, strict=True):
            pixels, reduced = image.read_reduced(transform)
            reduced.draw_on(canvas, pixels if is_resize else rgb_to_rgba(pixels))
            boxes.append(transform.apply_box(image.boxes) if len(image.boxes) else image.boxes)
            if image.shapes is not None:
                image.shapes.transform(transform, image.size)
                shapes.append(image.shapes)
        height, width = self.shape
        clipped = np.concatenate(boxes).clip(0, np.array([width, height, width, height]))
        pixels = canvas if is_resize else rgba_to_rgb(canvas)
        mosaic = LazyImage(pixels, self.shape, clipped, ObjectShapes.cat(shapes) if shapes else None)
        return mosaic, np.concatenate(classes)
