"""Recipes of DEIMv2 have the hyper-parameters of the official configs."""

from dataclasses import dataclass

import pytest
from detectron2.config import instantiate
from detectron2.data import transforms as T

from deim.data.augmentation import DropSmallBoxes
from deim.data.copy_blend import CopyBlend
from deim.schedule import Stage
from tests.config.test_recipes import ALL, groups_of
from tests.deimv2 import MODELS, build_model
from tests.models import recipe


@dataclass(frozen=True)
class Official:
    """Settings of an official config, with those of its base.

    Attributes:
        epochs: number of epochs, then the first epoch of Dense O2O, of single-image augmentation, of no augmentation
            and of the final stage (a single image size).
        flat: epochs before the learning rate falls; None if it never falls.
        groups: {(learning rate, weight decay): parameters}, without DINOv3's mask token of 384 parameters.
        late_epoch: first epoch of the late matching cost.
        copy_blend: probability, first epoch and end (exclusive) of copy-blend; None for no copy-blend.
        multi_scale_repeat: number of times that the base size is in the list of image sizes; None for a single size.
        image_size, mosaic, min_box_size: side of the image, probability of a mosaic, smallest side of a box.
        batch_size: images per iteration.
        warmup: warm-up iterations.
    """

    epochs: tuple[int, int, int, int, int]
    flat: int | None
    groups: dict[tuple[float, float], int]
    late_epoch: int
    copy_blend: tuple[float, int, int] | None
    multi_scale_repeat: int | None
    image_size: int = 640
    mosaic: float = 0.5
    min_box_size: float = 1.0
    batch_size: int = 32
    warmup: int = 2000


def official_small(groups: dict, **settings) -> Official:
    """Return the settings of Atto, Femto and Pico, which share a schedule."""
    return Official((500, 4, 250, 400, 468), 250, groups, 450, None, None, batch_size=128, warmup=4000, **settings)


OFFICIAL = {
    "hgnetv2_atto": official_small(
        {(1e-3, 1e-4): 230_344, (2e-3, 0.0): 2_160, (2e-3, 1e-4): 276_479},
        image_size=320,
        mosaic=0.3,
        min_box_size=12,
    ),
    "hgnetv2_femto": official_small(
        {(8e-4, 1e-4): 389_832, (1.6e-3, 0.0): 7_647, (1.6e-3, 1e-4): 586_464}, image_size=416, min_box_size=10
    ),
    "hgnetv2_pico": official_small(
        {(8e-4, 1e-4): 749_202, (1.6e-3, 0.0): 8_823, (1.6e-3, 1e-4): 781_512}, min_box_size=8
    ),
    "hgnetv2_n": Official(
        (160, 4, 78, 148, 148),
        None,
        {(4e-4, 1e-4): 1_850_396, (8e-4, 0.0): 14_479, (8e-4, 1e-4): 1_735_544},
        136,
        (0.4, 4, 78),
        None,
    ),
    "hgnetv2_s": Official(
        (132, 4, 64, 120, 120),
        64,
        {(2e-4, 1e-4): 1_838_124, (4e-4, 0.0): 30_960, (4e-4, 1e-4): 8_582_327},
        100,
        (0.5, 4, 120),
        20,
    ),
    "hgnetv2_m": Official(
        (102, 4, 49, 90, 90),
        49,
        {(4e-5, 1e-4): 5_999_930, (4e-4, 0.0): 53_832, (4e-4, 1e-4): 12_812_588},
        80,
        (0.5, 4, 90),
        6,
    ),
    "hgnetv2_l": Official(
        (58, 4, 29, 50, 50),
        29,
        {(2.5e-5, 1.25e-4): 13_553_376, (5e-4, 0.0): 32_768, (5e-4, 1.25e-4): 17_504_790},
        45,
        (0.5, 4, 50),
        4,
    ),
    "hgnetv2_x": Official(
        (58, 4, 29, 50, 50),
        29,
        {(5e-6, 1.25e-4): 33_206_400, (5e-4, 0.0): 48_384, (5e-4, 1.25e-4): 27_011_478},
        45,
        (0.5, 4, 50),
        3,
    ),
    "dinov3_s": Official(
        (132, 4, 64, 120, 120),
        64,
        {(2.5e-5, 1e-4): 5_456_064, (2.5e-5, 0.0): 30_144, (5e-4, 0.0): 27_356, (5e-4, 1e-4): 4_266_272},
        100,
        (0.5, 4, 120),
        20,
    ),
    "dinov3_m": Official(
        (102, 4, 49, 90, 90),
        49,
        {(2.5e-5, 1e-4): 9_634_048, (2.5e-5, 0.0): 40_192, (5e-4, 0.0): 41_564, (5e-4, 1e-4): 8_641_944},
        80,
        (0.5, 4, 90),
        6,
    ),
    "dinov3_l": Official(
        (68, 4, 34, 60, 60),
        34,
        {
            (1.25e-5, 1.25e-4): 21_540_096 - 384,
            (1.25e-5, 0.0): 61_056,
            (5e-4, 0.0): 47_500,
            (5e-4, 1.25e-4): 10_902_560,
        },
        50,
        (0.5, 4, 60),
        3,
    ),
    "dinov3_x": Official(
        (58, 4, 29, 50, 50),
        29,
        {(1e-5, 1.25e-4): 28_617_984 - 384, (1e-5, 0.0): 79_488, (5e-4, 0.0): 74_838, (5e-4, 1.25e-4): 22_439_424},
        45,
        (0.5, 4, 50),
        3,
    ),
}


def test_every_recipe_is_tested() -> None:
    assert set(OFFICIAL) == set(MODELS)
    assert {f"deimv2_{name}_coco" for name in MODELS} == {
        name for name in ALL if name.startswith("deimv2_") and name.endswith("_coco")
    }


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameter_groups(name: str) -> None:
    assert groups_of(recipe(f"deimv2_{name}_coco"), build_model(name)) == OFFICIAL[name].groups


@pytest.mark.parametrize("name", OFFICIAL)
def test_schedules(name: str) -> None:
    cfg, official = recipe(f"deimv2_{name}_coco"), OFFICIAL[name]
    schedule = instantiate(cfg.schedule)
    epochs, dense, strong, none, final = official.epochs
    expected = [Stage.PLAIN] * dense + [Stage.DENSE] * (strong - dense) + [Stage.STRONG] * (none - strong)
    expected += [Stage.PLAIN] * (final - none) + [Stage.FINAL] * (epochs - final)
    assert [schedule.stage(epoch) for epoch in range(epochs)] == expected
    assert (schedule.warmup, schedule.warmup_iters) == ("quadratic", official.warmup)
    assert (schedule.final_from_best, schedule.final_ema_decay) == (True, None)
    if official.flat is None:
        assert schedule.lr_gamma == 1
    else:
        assert (schedule.flat_epochs, schedule.no_aug_epochs, schedule.lr_gamma) == (official.flat, epochs - final, 0.5)
    ema = cfg.train.model_ema
    assert (cfg.train.clip_grad.params.max_norm, ema.decay, ema.warmup_iters) == (0.1, 0.9999, 1000)


@pytest.mark.parametrize("name", OFFICIAL)
def test_losses_and_matching(name: str) -> None:
    criterion, official = recipe(f"deimv2_{name}_coco").model.criterion, OFFICIAL[name]
    weights = {key: loss.weight for key, loss in criterion.losses.items() if loss is not None}
    is_small = official.copy_blend is None
    distributions = {} if is_small else {"loss_fgl": 0.15, "loss_ddf": 1.5}
    assert weights == {"loss_mal": 1, "loss_bbox": 5, "loss_giou": 2, **distributions}
    assert criterion.losses.loss_mal.gamma == 1.5
    assert criterion.use_union == (not is_small)
    assert (criterion.matcher.late_cost.exponent, criterion.matcher.late_epoch) == (4.0, official.late_epoch)


@pytest.mark.parametrize("name", OFFICIAL)
def test_augmentation(name: str) -> None:
    cfg, official = recipe(f"deimv2_{name}_coco"), OFFICIAL[name]
    loader = cfg.dataloader.train
    assert tuple(cfg.dataloader.image_size) == (official.image_size, official.image_size)
    assert dict(loader.mapper.mosaic, _target_=None) == {
        "_target_": None, "tile_size": official.image_size // 2, "degrees": 10, "translate": 0.1, "scale": (0.5, 1.5), "fill": 0
    }  # fmt: skip
    assert loader.mapper.mosaic_prob == official.mosaic
    assert loader.mapper.multi_scale_repeat == official.multi_scale_repeat
    assert (loader.total_batch_size, loader.mapper.min_box_size) == (official.batch_size, official.min_box_size)
    flip = instantiate(loader.mapper.weak)[-1]
    assert isinstance(flip, T.RandomFlip)
    if official.copy_blend is None:
        assert loader.mixup is None
        assert list(loader.batch_operations) == []
        (drop, _) = instantiate(loader.mapper.weak)
        assert isinstance(drop, DropSmallBoxes)
        assert drop.min_size == official.min_box_size
        return
    assert (loader.mixup.prob, list(loader.mixup.ratio)) == (0.5, [0.45, 0.55])
    (operation,) = instantiate(loader.batch_operations)
    assert isinstance(operation, CopyBlend)
    schedule = instantiate(cfg.schedule)
    active = [epoch for epoch in range(schedule.epochs) if operation.is_active(epoch, schedule)]
    assert (operation.prob, active[0], active[-1] + 1) == official.copy_blend
    assert (operation.min_area, operation.num_objects, tuple(operation.expand_ratio)) == (100, 3, (0.1, 0.25))


@pytest.mark.parametrize("name", OFFICIAL)
def test_image_normalization(name: str) -> None:
    model = recipe(f"deimv2_{name}_coco").model
    if name.startswith("dinov3"):
        assert [value / 255 for value in model.pixel_mean] == pytest.approx([0.485, 0.456, 0.406])
        assert [value / 255 for value in model.pixel_std] == pytest.approx([0.229, 0.224, 0.225])
    else:
        assert model.get("pixel_mean") is None
        assert model.get("pixel_std") is None
