"""Augmentation of training images in each epoch of a recipe, for the comparison with the official code."""

from dataclasses import dataclass
from typing import Any

from detectron2.config import instantiate

from deim.data.augmentation import DropSmallBoxes
from deim.data.staged import StagedMapper, multi_scale_sizes
from deim.schedule import Stage

# Official names of the augmentations of single images, except for the resize.
AUGMENTATIONS = frozenset({"RandomPhotometricDistort", "RandomZoomOut", "RandomIoUCrop", "RandomHorizontalFlip"})
# Names of this project that differ from the official ones.
_OFFICIAL_NAMES = {"RandomFlip": "RandomHorizontalFlip"}


@dataclass(frozen=True)
class EpochAugmentation:
    """Augmentation of training images in one epoch.

    Attributes:
        mosaic_prob: probability of a mosaic.
        mosaic_tile: side of the tiles of a mosaic in pixels; None without mosaics.
        with_mosaic, without_mosaic: names of the other augmentations of a mosaic and of a single image.
        mixup_prob: probability of mixup of a batch.
        copy_blend_prob: probability of copy-blend of a batch without mixup.
        sides: sides of the training images in pixels, with repetitions.
        min_sizes: minimum side of a box in pixels, before and after the resize.
    """

    mosaic_prob: float
    mosaic_tile: int | None
    with_mosaic: frozenset[str]
    without_mosaic: frozenset[str]
    mixup_prob: float
    copy_blend_prob: float
    sides: tuple[int, ...]
    min_sizes: tuple[float, float]


def recipe_augmentation(recipe: Any) -> list[EpochAugmentation]:
    """Return the augmentation of training images in every epoch of a recipe of this project."""
    train = recipe.dataloader.train
    mapper: StagedMapper = instantiate(train.mapper)
    mixup, others = instantiate(train.mixup), [instantiate(operation) for operation in train.batch_operations]
    schedule = mapper.schedule
    epochs = []
    for epoch in range(schedule.epochs):
        stage = mapper.stage_of(epoch)
        has_mosaic = stage is Stage.DENSE and mapper.mosaic is not None
        color, strong = (mapper.color, mapper.strong) if stage in (Stage.DENSE, Stage.STRONG) else ([], [])
        repeat = None if stage is Stage.FINAL else mapper.multi_scale_repeat
        before = [a.min_size for a in mapper.weak if isinstance(a, DropSmallBoxes)]
        epochs.append(
            EpochAugmentation(
                mosaic_prob=mapper.mosaic_prob if has_mosaic else 0.0,
                mosaic_tile=mapper.mosaic.tile_size if has_mosaic and mapper.mosaic is not None else None,
                with_mosaic=_names([*color, *mapper.weak]) if has_mosaic else frozenset(),
                without_mosaic=_names([*color, *strong, *mapper.weak]),
                mixup_prob=_prob([mixup] if mixup is not None else [], epoch, schedule),
                copy_blend_prob=_prob(others, epoch, schedule),
                sides=tuple(sorted(multi_scale_sizes(mapper.shape[0], repeat))),
                # Without DropSmallBoxes, a box that is smaller than a pixel before the resize is kept.
                min_sizes=(before[0] if before else 1.0, mapper.min_box_size),
            )
        )
    return epochs


def _names(augmentations: list[Any]) -> frozenset[str]:
    names = {type(augmentation).__name__ for augmentation in augmentations}
    return frozenset(_OFFICIAL_NAMES.get(name, name) for name in names) & AUGMENTATIONS


def _prob(operations: list[Any], epoch: int, schedule: Any) -> float:
    """Return the probability of the only operation that is active in an epoch, 0 if none is."""
    active = [operation.prob for operation in operations if operation.is_active(epoch, schedule)]
    assert len(active) <= 1, "the recipes have at most one operation besides mixup"
    return active[0] if active else 0.0
