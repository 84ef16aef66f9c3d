"""Recipes of ECDet have the hyper-parameters of the official configs."""

from dataclasses import dataclass

import pytest
from detectron2.config import instantiate

from deim.schedule import Stage
from tests.config.test_recipes import ALL, groups_of
from tests.ecdet import MODELS, build_model
from tests.models import recipe


@dataclass(frozen=True)
class Official:
    """Settings of an official config, with those of its base.

    Attributes:
        epochs: all epochs, the first epoch of single-image augmentation and of none.
        groups: {(learning rate, weight decay): parameters}.
        prob: probability of a mosaic, and of mixup.
        size: name of the backbone.
        widths: hidden widths of the feed-forward networks of encoder and decoder.
        fusion: width and depth of the fusion stages.
    """

    epochs: tuple[int, int, int]
    groups: dict[tuple[float, float], int]
    prob: float
    size: str
    widths: tuple[int, int]
    fusion: tuple[float, float]


OFFICIAL = {
    "s": Official(
        (74, 36, 72),
        {(2.5e-5, 1e-4): 5_526_984, (2.5e-5, 0.0): 30_480, (5e-4, 0.0): 29_868, (5e-4, 1e-4): 4_296_768},
        0.75,
        "ecvitt",
        (512, 512),
        (0.34, 0.67),
    ),
    "m": Official(
        (62, 30, 60),
        {(2.5e-5, 1e-4): 9_825_376, (2.5e-5, 0.0): 40_640, (5e-4, 0.0): 45_356, (5e-4, 1e-4): 9_520_128},
        0.75,
        "ecvittplus",
        (512, 1024),
        (0.75, 0.67),
    ),
    "l": Official(
        (50, 24, 48),
        {(5e-6, 1.25e-4): 22_106_256, (5e-6, 0.0): 60_960, (5e-4, 0.0): 49_964, (5e-4, 1.25e-4): 10_748_928},
        1.0,
        "ecvits",
        (1024, 1024),
        (0.75, 1.0),
    ),
    "x": Official(
        (50, 24, 48),
        {(2.5e-6, 1.25e-4): 29_184_144, (2.5e-6, 0.0): 70_176, (5e-4, 0.0): 67_372, (5e-4, 1.25e-4): 20_620_288},
        1.0,
        "ecvitsplus",
        (2048, 2048),
        (1.5, 1.0),
    ),
}


def test_every_recipe_is_tested() -> None:
    assert set(OFFICIAL) == set(MODELS)
    assert {f"ecdet_{name}_coco" for name in MODELS} == {
        name for name in ALL if name.startswith("ecdet_") and name.endswith("_coco")
    }


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameter_groups(name: str) -> None:
    assert groups_of(recipe(f"ecdet_{name}_coco"), build_model(name)) == OFFICIAL[name].groups


@pytest.mark.parametrize("name", OFFICIAL)
def test_schedules(name: str) -> None:
    cfg, (epochs, strong, final) = recipe(f"ecdet_{name}_coco"), OFFICIAL[name].epochs
    schedule = instantiate(cfg.schedule)
    expected = [Stage.DENSE] * strong + [Stage.STRONG] * (final - strong) + [Stage.FINAL] * (epochs - final)
    assert [schedule.stage(epoch) for epoch in range(epochs)] == expected
    assert (schedule.warmup, schedule.warmup_iters, schedule.lr_gamma) == ("quadratic", 2000, 0.5)
    assert (schedule.epochs, schedule.flat_epochs, schedule.no_aug_epochs) == (epochs, strong, epochs - final)
    assert (schedule.final_from_best, schedule.final_restarts, schedule.final_ema_decay) == (True, False, None)
    ema = cfg.train.model_ema
    assert (cfg.train.clip_grad.params.max_norm, ema.decay, ema.warmup_iters) == (0.1, 0.9999, 1000)


@pytest.mark.parametrize("name", OFFICIAL)
def test_models(name: str) -> None:
    model, official = recipe(f"ecdet_{name}_coco").model, OFFICIAL[name]
    backbone, encoder, decoder = model.backbone, model.encoder, model.decoder
    assert (backbone.size, list(backbone.out_blocks)) == (official.size, [10, 11])
    assert (encoder.dim_feedforward, decoder.layer.dim_feedforward) == official.widths
    assert (encoder.expansion, encoder.depth_multiplier) == official.fusion
    assert (encoder.fusion, encoder.merge, encoder.attention_activation) == ("light_elan", "sum", "silu")
    assert (decoder.num_layers, decoder.queries.num_queries, list(decoder.layer.num_points)) == (4, 300, [3, 6, 3])
    assert decoder.layer.activation == "silu"
    assert [value / 255 for value in model.pixel_mean] == pytest.approx([0.485, 0.456, 0.406])
    assert [value / 255 for value in model.pixel_std] == pytest.approx([0.229, 0.224, 0.225])


@pytest.mark.parametrize("name", OFFICIAL)
def test_losses_and_matching(name: str) -> None:
    criterion = recipe(f"ecdet_{name}_coco").model.criterion
    weights = {key: loss.weight for key, loss in criterion.losses.items()}
    assert weights == {"loss_mal": 1, "loss_bbox": 5, "loss_giou": 2, "loss_fgl": 0.15, "loss_ddf": 1.5}
    assert criterion.losses.loss_mal.gamma == 1.5
    assert criterion.use_union
    assert criterion.matcher.late_cost is None
    cost = criterion.matcher.cost
    assert (cost.class_weight, cost.bbox_weight, cost.giou_weight, cost.alpha, cost.gamma) == (2, 5, 2, 0.25, 2)


@pytest.mark.parametrize("name", OFFICIAL)
def test_augmentation(name: str) -> None:
    cfg, official = recipe(f"ecdet_{name}_coco"), OFFICIAL[name]
    train = cfg.dataloader.train
    assert dict(train.mapper.mosaic, _target_=None) == {
        "_target_": None, "tile_size": 320, "degrees": 10, "translate": 0.1, "scale": (0.5, 1.5), "fill": 0
    }  # fmt: skip
    assert (train.mapper.mosaic_prob, train.mixup.prob, list(train.mixup.ratio)) == (
        official.prob,
        official.prob,
        [0.45, 0.55],
    )
    assert (train.mapper.multi_scale_repeat, train.mapper.min_box_size) == (None, 1.0)
    assert list(train.batch_operations) == []
    assert (train.total_batch_size, cfg.dataloader.test.total_batch_size) == (32, 64)
    assert tuple(cfg.dataloader.image_size) == (640, 640)
