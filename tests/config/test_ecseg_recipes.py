"""Recipes of ECSeg: size, tensor names and hyper-parameters of the official code."""

import pytest
import torch
from detectron2.config import instantiate

from deim.checkpoint.formats.edgecrafter import EDGECRAFTER
from deim.inference import deployment_form
from tests.checkpoint.foreign import digest
from tests.conftest import long_except
from tests.models import recipe

# Parameters of backbone, encoder and decoder, and of the whole deployed model; number and digest of the tensors in training
# and in deployment form.
OFFICIAL = {
    "s": (
        (5_594_712, 1_367_360, 3_449_839, 10_339_116),
        ((702, "a9959daf6cb55f03"), (420, "12f96bb7aab7e807")),
    ),
    "m": (
        (9_932_064, 3_802_368, 6_630_191, 20_140_028),
        ((702, "b10abd9fcc6cc1f5"), (420, "935afb2682ce85c8")),
    ),
    "l": (
        (22_463_664, 4_805_376, 6_630_191, 33_597_980),
        ((810, "ad1cf1d2b2f0120d"), (440, "dbd027c0befb81b8")),
    ),
    "x": (
        (29_550_768, 12_592_896, 8_731_439, 49_901_852),
        ((810, "092c1688167499ae"), (440, "9569545b6315dcd1")),
    ),
}
# Epochs, first epochs of single-image augmentation and of none, learning rate of the backbone, weight decay.
SCHEDULES = {
    "s": (74, 36, 72, 2.5e-5, 1e-4),
    "m": (74, 36, 72, 2.5e-5, 1e-4),
    "l": (50, 24, 48, 2.5e-6, 1.25e-4),
    "x": (50, 24, 48, 2.5e-6, 1.25e-4),
}


@pytest.mark.parametrize("name", long_except(["s"], OFFICIAL))
def test_models_have_the_official_tensors(name: str) -> None:
    parameters, digests = OFFICIAL[name]
    with torch.device("meta"):
        model = instantiate(recipe(f"ecseg_{name}_coco").model)
    deployed = deployment_form(model)
    parts = [model.backbone, model.encoder, model.decoder, deployed]
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == parameters
    for form, expected in zip((model, deployed), digests, strict=True):
        assert digest(EDGECRAFTER.from_native(form.state_dict(), form)) == expected


@pytest.mark.parametrize("name", OFFICIAL)
def test_losses_and_costs_are_the_official_ones(name: str) -> None:
    model = recipe(f"ecseg_{name}_coco").model
    assert {key: loss.weight for key, loss in model.criterion.losses.items() if loss is not None} == {
        "loss_mal": 2.0,
        "loss_bbox": 1.0,
        "loss_giou": 1.0,
        "loss_fgl": 0.15,
        "loss_ddf": 1.5,
        "loss_mask_ce": 5.0,
        "loss_mask_dice": 5.0,
    }
    cost, (mask_cost,) = model.criterion.matcher.cost, model.criterion.matcher.further_costs
    assert (cost.class_weight, cost.bbox_weight, cost.giou_weight) == (2.0, 1.0, 1.0)
    assert (mask_cost.cross_entropy_weight, mask_cost.dice_weight) == (5.0, 5.0)
    assert (model.decoder.heads.masks.upsampling, model.decoder.heads.masks.inference_blocks) == (2, 1)


@pytest.mark.parametrize("name", OFFICIAL)
def test_schedules_are_the_official_ones(name: str) -> None:
    cfg = recipe(f"ecseg_{name}_coco")
    epochs, dense_end, augmentation_end, backbone_rate, weight_decay = SCHEDULES[name]
    schedule = instantiate(cfg.schedule)
    assert (schedule.epochs, schedule.dense_epochs[1], schedule.epochs - schedule.no_aug_epochs) == (
        epochs,
        dense_end,
        augmentation_end,
    )
    assert (cfg.optimizer.params.rules.backbone.lr, cfg.optimizer.weight_decay) == (backbone_rate, weight_decay)
    assert cfg.dataloader.train.mapper.masks is True
    assert cfg.dataloader.train.mapper.mask_stride == 1
