"""Recipes have the published sizes and hyper-parameters.

The figures are those of the official repositories of DEIM, D-FINE, RT-DETR, Deformable DETR, H-Deformable-DETR and DN-DETR.
"""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from detectron2.config import instantiate

from deim.config import switch
from deim.inference import deployment_form
from deim.schedule import Stage
from tests.conftest import ROOT
from tests.models import recipe

ALL = sorted(path.stem for path in ROOT.glob("projects/*/configs/*.py"))

# recipe: (parameters in training, parameters in deployment form); None: not compared
PARAMETERS = {
    "deim_dfine_n_coco": (3_782_693, 3_753_799),
    "deim_dfine_s_coco": (10_321_877, 10_237_491),
    "deim_dfine_m_coco": (19_590_064, 19_248_189),
    "deim_dfine_l_coco": (31_289_848, 30_769_891),
    "deim_dfine_x_coco": (62_715_480, 61_695_555),
    "dfine_n_coco": (3_782_693, 3_753_799),
    "dfine_s_coco": (10_321_877, 10_237_491),
    "dfine_m_coco": (19_590_064, 19_248_189),
    "dfine_l_coco": (31_244_152, None),
    "dfine_x_coco": (62_621_560, None),
    "deim_rtdetrv2_r18vd_120e_coco": (20_183_440, 19_979_152),
    "deim_rtdetrv2_r34vd_120e_coco": (31_440_644, 31_236_356),
    "deim_rtdetrv2_r50vd_m_60e_coco": (33_198_864, 32_994_576),
    "deim_rtdetrv2_r50vd_60e_coco": (42_943_596, 42_144_876),
    "deim_rtdetrv2_r101vd_60e_coco": (76_660_716, 74_872_812),
    "rtdetrv2_r18vd_120e_coco": (20_184_464, 19_980_176),
    "rtdetrv2_r34vd_120e_coco": (31_441_668, 31_237_380),
    # The deployment form of this project is smaller: it lacks the three decoder layers that inference does not use.
    "rtdetrv2_r50vd_m_7x_coco": (36_593_772, None),
    "rtdetrv2_r50vd_6x_coco": (42_891_372, 42_092_652),
    "rtdetrv2_r101vd_6x_coco": (76_556_268, 74_768_364),
}

# recipe: {(learning rate, weight decay): parameters}
GROUPS = {
    "deim_dfine_n_coco": {(4e-4, 1e-4): 1_850_396, (8e-4, 0.0): 16_015, (8e-4, 1e-4): 1_916_280},
    "dfine_n_coco": {(4e-4, 1e-4): 1_850_396, (8e-4, 0.0): 16_015, (8e-4, 1e-4): 1_916_280},
    "deim_dfine_s_coco": {(2e-4, 1e-4): 1_838_124, (4e-4, 0.0): 34_288, (4e-4, 1e-4): 8_449_463},
    "dfine_s_coco": {(1e-4, 1e-4): 1_850_396, (2e-4, 0.0): 38_135, (2e-4, 1e-4): 8_433_344},
    "deim_dfine_m_coco": {(4e-5, 1e-4): 5_999_930, (4e-4, 0.0): 59_464, (4e-4, 1e-4): 13_530_668},
    "dfine_m_coco": {(2e-5, 1e-4): 6_026_626, (2e-4, 0.0): 52_780, (2e-4, 1e-4): 13_510_656},
    "deim_dfine_l_coco": {(2.5e-5, 1.25e-4): 13_553_376, (5e-4, 0.0): 39_936, (5e-4, 1.25e-4): 17_696_534},
    "dfine_l_coco": {(1.25e-5, 1.25e-4): 13_482_752, (2.5e-4, 0.0): 39_936, (2.5e-4, 1.25e-4): 17_696_534},
    "deim_dfine_x_coco": {(5e-6, 1.25e-4): 33_325_760, (5e-4, 0.0): 56_576, (5e-4, 1.25e-4): 29_333_142},
    "dfine_x_coco": {(2.5e-6, 1.25e-4): 33_206_400, (2.5e-4, 0.0): 56_576, (2.5e-4, 1.25e-4): 29_333_142},
    "deim_rtdetrv2_r18vd_120e_coco": {(2e-4, 0.0): 31_360, (2e-4, 1e-4): 20_152_080},
    "deim_rtdetrv2_r34vd_120e_coco": {(1e-4, 1e-4): 21_290_848, (2e-4, 0.0): 40_320, (2e-4, 1e-4): 10_109_476},
    "deim_rtdetrv2_r50vd_m_60e_coco": {(2e-5, 1e-4): 23_474_016, (2e-4, 0.0): 74_752, (2e-4, 1e-4): 9_650_096},
    "deim_rtdetrv2_r50vd_60e_coco": {(2e-5, 1e-4): 23_474_016, (2e-4, 0.0): 85_504, (2e-4, 1e-4): 19_384_076},
    "deim_rtdetrv2_r101vd_60e_coco": {(2e-6, 1e-4): 42_413_920, (2e-4, 0.0): 148_224, (2e-4, 1e-4): 34_098_572},
    "rtdetrv2_r18vd_120e_coco": {(1e-4, 0.0): 31_360, (1e-4, 1e-4): 20_153_104},
    "rtdetrv2_r34vd_120e_coco": {
        (5e-5, 1e-4): 21_290_848,
        (5e-5, 0.0): 17_280,
        (1e-4, 0.0): 41_764,
        (1e-4, 1e-4): 10_091_776,
    },
    "rtdetrv2_r50vd_m_7x_coco": {(1e-5, 1e-4): 23_445_504, (1e-4, 0.0): 26_112, (1e-4, 1e-4): 13_093_644},
    "rtdetrv2_r50vd_6x_coco": {(1e-5, 1e-4): 23_445_504, (1e-4, 0.0): 32_256, (1e-4, 1e-4): 19_385_100},
    "rtdetrv2_r101vd_6x_coco": {(1e-6, 1e-4): 42_385_408, (1e-4, 0.0): 42_752, (1e-4, 1e-4): 34_099_596},
}

# recipe: (epochs, epochs without augmentation at the end, final fraction of the base learning rate, warm-up iterations)
SCHEDULES = {
    "deim_dfine_n_coco": (160, 12, 1.0, 2000),
    "deim_dfine_s_coco": (132, 12, 0.5, 2000),
    "deim_dfine_m_coco": (102, 12, 0.5, 2000),
    "deim_dfine_l_coco": (58, 8, 0.5, 2000),
    "deim_dfine_x_coco": (58, 8, 0.5, 2000),
    "dfine_n_coco": (160, 12, 1.0, 500),
    "dfine_s_coco": (132, 12, 1.0, 500),
    "dfine_m_coco": (132, 12, 1.0, 500),
    "dfine_l_coco": (80, 8, 1.0, 500),
    "dfine_x_coco": (80, 8, 1.0, 500),
    "deim_rtdetrv2_r18vd_120e_coco": (120, 3, 0.5, 2000),
    "deim_rtdetrv2_r34vd_120e_coco": (120, 3, 0.5, 2000),
    "deim_rtdetrv2_r50vd_m_60e_coco": (60, 2, 0.5, 2000),
    "deim_rtdetrv2_r50vd_60e_coco": (60, 2, 0.5, 2000),
    "deim_rtdetrv2_r101vd_60e_coco": (60, 2, 0.5, 2000),
    "rtdetrv2_r18vd_120e_coco": (120, 3, 1.0, 2000),
    "rtdetrv2_r34vd_120e_coco": (120, 3, 1.0, 2000),
    "rtdetrv2_r50vd_m_7x_coco": (84, 3, 1.0, 2000),
    "rtdetrv2_r50vd_6x_coco": (72, 0, 1.0, 2000),
    "rtdetrv2_r101vd_6x_coco": (72, 0, 1.0, 2000),
}

# Parameters of Deformable DETR, H-Deformable-DETR and DN-DETR with the 91 classes that their authors use for COCO.
# recipe: (base learning rate, parameters with the base rate, parameters with a tenth of it, frozen parameters)
DETR_PARAMETERS = {
    "deformable_detr_r50_single_scale_50ep_coco": (2e-4, 10_413_791, 23_430_402, 222_400),
    "deformable_detr_r50_dc5_single_scale_50ep_coco": (2e-4, 10_413_791, 23_430_402, 222_400),
    "deformable_detr_r50_50ep_coco": (2e-4, 15_824_735, 24_022_530, 222_400),
    "deformable_detr_r50_refine_50ep_coco": (2e-4, 16_604_730, 24_022_530, 222_400),
    "deformable_detr_r50_two_stage_50ep_coco": (2e-4, 16_937_113, 24_022_016, 222_400),
    "h_deformable_detr_r50_12ep_coco": (2e-4, 23_701_657, 24_022_016, 222_400),
    "h_deformable_detr_r50_36ep_coco": (2e-4, 23_701_657, 24_022_016, 222_400),
    "h_deformable_detr_swin_tiny_12ep_coco": (2e-4, 20_179_097, 28_310_010, 0),
    "h_deformable_detr_swin_tiny_36ep_coco": (2e-4, 20_179_097, 28_310_010, 0),
    "h_deformable_detr_swin_large_12ep_coco": (2e-4, 22_292_633, 195_787_284, 0),
    "h_deformable_detr_swin_large_900_queries_36ep_coco": (2e-4, 22_446_233, 195_787_284, 0),
    "dn_detr_r50_50ep_coco": (1e-4, 20_240_065, 23_232_512, 222_400),
    "dn_detr_r50_dc5_50ep_coco": (1e-4, 20_240_065, 23_232_512, 222_400),
    "dn_detr_r50_dc5_3_patterns_12ep_coco": (1e-4, 20_240_833, 23_232_512, 222_400),
    "dn_detr_r101_dc5_3_patterns_12ep_coco": (1e-4, 20_240_833, 42_172_416, 222_400),
    "dn_deformable_encoder_detr_r50_12ep_coco": (1e-4, 25_033_677, 23_232_512, 222_400),
    "dn_deformable_encoder_detr_r101_12ep_coco": (1e-4, 25_033_677, 42_172_416, 222_400),
    "dn_deformable_encoder_detr_r50_50ep_coco": (1e-4, 25_033_677, 23_232_512, 222_400),
    "dn_deformable_detr_r50_24ep_coco": (1e-4, 23_974_242, 23_232_512, 222_400),
    "dn_deformable_detr_r50_50ep_coco": (1e-4, 23_974_242, 23_232_512, 222_400),
}

# recipe: (epochs, epoch of the step)
DETR_SCHEDULES = {
    **{name: (50, 40) for name in DETR_PARAMETERS if "_50ep_" in name},
    **{name: (36, 30) for name in DETR_PARAMETERS if "_36ep_" in name},
    **{name: (12, 11) for name in DETR_PARAMETERS if "_12ep_" in name},
    "dn_deformable_detr_r50_24ep_coco": (24, 20),
}


def groups_of(cfg, model) -> dict[tuple[float, float], int]:
    """{(learning rate, weight decay): parameters} of a recipe's optimizer."""
    cfg.optimizer.params.model = model
    groups: Counter = Counter()
    for group in instantiate(cfg.optimizer).param_groups:
        groups[round(group["lr"], 9), group["weight_decay"]] += sum(p.numel() for p in group["params"])
    return dict(groups)


@pytest.mark.parametrize("name", DETR_PARAMETERS)
def test_parameter_groups_of_detrs(name: str) -> None:
    cfg = recipe(name, "model.num_classes=91")
    rate, whole, tenth, frozen = DETR_PARAMETERS[name]
    with torch.device("meta") if "swin" not in name else nullcontext():
        model = instantiate(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == whole + tenth + frozen
    assert groups_of(cfg, model) == {(rate, 1e-4): whole, (rate / 10, 1e-4): tenth}


@pytest.mark.parametrize("name", DETR_SCHEDULES)
def test_detr_schedules(name: str) -> None:
    cfg = recipe(name)
    schedule, (epochs, step) = instantiate(cfg.schedule), DETR_SCHEDULES[name]
    assert schedule.epochs == epochs
    rates = [schedule.learning_rate(epoch, epochs) for epoch in (0, step - 0.01, step, epochs)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1])
    assert cfg.dataloader.train.total_batch_size == (32 if name.startswith("deformable") else 16)
    assert cfg.train.clip_grad.params.max_norm == 0.1
    assert not cfg.train.model_ema.enabled


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_groups(name: str) -> None:
    cfg = recipe(name)
    model = instantiate(cfg.model)
    training, deployed = PARAMETERS[name]
    assert sum(p.numel() for p in model.parameters()) == training
    if deployed is not None:
        assert sum(p.numel() for p in deployment_form(model).parameters()) == deployed
    assert groups_of(cfg, model) == GROUPS[name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str) -> None:
    cfg = recipe(name)
    schedule = instantiate(cfg.schedule)
    actual = (schedule.epochs, schedule.no_aug_epochs, schedule.lr_gamma, schedule.warmup_iters)
    assert actual == SCHEDULES[name]
    assert cfg.train.clip_grad.params.max_norm == 0.1
    assert cfg.train.model_ema.decay == 0.9999
    batch_size = 16 if "rtdetr" in name else 128 if "_n_" in name else 32
    assert cfg.dataloader.train.total_batch_size == batch_size
    assert cfg.train.model_ema.warmup_iters == (2000 if "rtdetr" in name else 1000)
    # RT-DETRv2's official code keeps the current weights at the start of the final stage. No official code changes the
    # EMA decay there: `ema_restart_decay` of the official configs is never read.
    assert (schedule.final_from_best, schedule.final_ema_decay) == (not name.startswith("rtdetrv2"), None)


# recipe: (first epoch of Dense O2O, of single-image augmentation and of the final stage, multi_scale_repeat)
STAGES = {
    "deim_dfine_n_coco": (4, 78, 148, None),
    "deim_dfine_s_coco": (4, 64, 120, 20),
    "deim_dfine_m_coco": (4, 49, 90, 6),
    "deim_dfine_l_coco": (4, 29, 50, 4),
    "deim_dfine_x_coco": (4, 29, 50, 3),
    "dfine_n_coco": (0, 0, 148, None),
    "dfine_s_coco": (0, 0, 120, 20),
    "dfine_m_coco": (0, 0, 120, 6),
    "dfine_l_coco": (0, 0, 72, 4),
    "dfine_x_coco": (0, 0, 72, 3),
    "deim_rtdetrv2_r18vd_120e_coco": (4, 64, 117, None),
    "deim_rtdetrv2_r34vd_120e_coco": (4, 64, 117, 3),
    "deim_rtdetrv2_r50vd_m_60e_coco": (4, 34, 58, 3),
    "deim_rtdetrv2_r50vd_60e_coco": (4, 34, 58, 3),
    "deim_rtdetrv2_r101vd_60e_coco": (4, 34, 58, 3),
    "rtdetrv2_r18vd_120e_coco": (0, 0, 117, None),
    "rtdetrv2_r34vd_120e_coco": (0, 0, 117, 3),
    "rtdetrv2_r50vd_m_7x_coco": (0, 0, 81, 3),
    "rtdetrv2_r50vd_6x_coco": (0, 0, 72, 3),
    "rtdetrv2_r101vd_6x_coco": (0, 0, 72, 3),
}


@pytest.mark.parametrize("name", STAGES)
def test_augmentation_stages(name: str) -> None:
    cfg = recipe(name)
    schedule, mapper = instantiate(cfg.schedule), cfg.dataloader.train.mapper
    dense, strong, final, repeat = STAGES[name]
    stages = [schedule.stage(epoch) for epoch in range(schedule.epochs)]
    expected = [Stage.PLAIN] * dense + [Stage.DENSE] * (strong - dense) + [Stage.STRONG] * (final - strong)
    assert stages == expected + [Stage.FINAL] * (schedule.epochs - final)
    assert mapper.multi_scale_repeat == repeat
    if name.startswith("deim"):
        assert dict(mapper.mosaic, _target_=None) == {
            "_target_": None, "tile_size": 320, "degrees": 10, "translate": 0.1, "scale": (0.5, 1.5), "fill": 0
        }  # fmt: skip
        assert mapper.mosaic_prob == 0.5
        mixup = cfg.dataloader.train.mixup
        assert (mixup.prob, list(mixup.ratio)) == (0.5, [0.45, 0.55])
    else:
        assert mapper.mosaic is None
        assert cfg.dataloader.train.mixup is None


# Variant with DEIM, which only this project defines -> the recipe without DEIM.
DEIM_DETRS = {
    "deim_deformable_detr_r50_two_stage_50ep_coco": "deformable_detr_r50_two_stage_50ep_coco",
    "deim_h_deformable_detr_r50_12ep_coco": "h_deformable_detr_r50_12ep_coco",
    "deim_dn_deformable_detr_r50_24ep_coco": "dn_deformable_detr_r50_24ep_coco",
}


@pytest.mark.parametrize("name", DEIM_DETRS)
def test_deim_variants_change_only_loss_and_data(name: str) -> None:
    cfg, base = recipe(name), recipe(DEIM_DETRS[name])
    assert set(cfg.model.criterion.losses) == {"loss_mal", "loss_bbox", "loss_giou"}
    assert cfg.dataloader.train.mapper.mosaic is not None
    dense = instantiate(cfg.schedule).dense_epochs
    assert 0 < dense[0] < dense[1] < cfg.schedule.epochs
    assert switch(base, mal=True).model == cfg.model
    assert cfg.optimizer == base.optimizer


@pytest.mark.parametrize("name", [n for n in PARAMETERS if n.startswith("deim")])
def test_deim_recipes_use_mal(name: str) -> None:
    criterion = recipe(name).model.criterion
    assert criterion.losses.loss_mal.gamma == 1.5
    boxes = {"loss_bbox": 5, "loss_giou": 2}
    distributions = {} if "rtdetr" in name else {"loss_fgl": 0.15, "loss_ddf": 1.5}
    assert {k: loss.weight for k, loss in criterion.losses.items()} == {"loss_mal": 1, **boxes, **distributions}
    assert criterion.use_union == ("rtdetr" not in name)


# Recipe with masks -> recipe for boxes, weight of the losses and costs of masks, epochs, learning rates of D-FINE-seg
MASK_RECIPES = {
    "deim_dfine_n_masks_coco": ("deim_dfine_n_coco", 1.0, 75, 8e-4, 4e-4),
    "deim_dfine_s_masks_coco": ("deim_dfine_s_coco", 1.0, 75, 2.5e-4, 6e-5),
    "deim_dfine_m_masks_coco": ("deim_dfine_m_coco", 1.0, 75, 1.5e-4, 2e-5),
    "deim_dfine_l_masks_coco": ("deim_dfine_l_coco", 1.0, 75, 1.6e-4, 1e-5),
    "deim_dfine_x_masks_coco": ("deim_dfine_x_coco", 1.0, 75, 2e-4, 2e-6),
    "deformable_detr_r50_two_stage_masks_50ep_coco": ("deformable_detr_r50_two_stage_50ep_coco", 5.0, 50, 2e-4, 2e-5),
}


@pytest.mark.parametrize("name", MASK_RECIPES)
def test_mask_recipes_add_masks_to_the_recipe_for_boxes(name: str) -> None:
    base_name, weight, epochs, rate, backbone_rate = MASK_RECIPES[name]
    cfg, base = recipe(name), switch(recipe(base_name), masks=True)
    schedule = instantiate(cfg.schedule)
    losses, (cost,) = cfg.model.criterion.losses, cfg.model.criterion.matcher.further_costs
    assert losses.loss_mask_ce.weight == losses.loss_mask_dice.weight == weight
    assert cost.cross_entropy_weight == cost.dice_weight == weight
    assert cfg.model.decoder == base.model.decoder
    cfg.schedule = base.schedule  # the data loaders refer to it
    cfg.dataloader.test.total_batch_size = base.dataloader.test.total_batch_size  # smaller with masks of large images
    assert cfg.dataloader == base.dataloader
    assert cfg.train.best_metric == "segm/AP"
    assert (schedule.epochs, cfg.train.iterations.max_iter) == (
        epochs,
        epochs * (118_287 // cfg.dataloader.train.total_batch_size),
    )
    assert (cfg.optimizer.lr, cfg.optimizer.params.rules.backbone.lr) == (rate, backbone_rate)


def test_all_recipes_are_tested() -> None:
    # These have 200 M parameters, and differ from tested recipes only in the schedule or the number of queries.
    similar = {"h_deformable_detr_swin_large_36ep_coco", "h_deformable_detr_swin_large_900_queries_12ep_coco"}
    on_detrex = {"deim_dino_r50_4scale_12ep_coco", "deim_dab_detr_r50_50ep_coco"}
    # test_deimv2_recipes.py, test_ecdet_recipes.py, test_ecseg_recipes.py, test_ecpose_recipes.py
    in_other_file = {name for name in ALL if name.startswith(("deimv2_", "ecdet_", "ecseg_", "ecpose_"))}
    published = {name for name in ALL if name.endswith("_coco")} - set(DEIM_DETRS) - on_detrex - in_other_file
    published -= set(MASK_RECIPES)
    assert set(PARAMETERS) | set(DETR_PARAMETERS) | similar == published
    assert set(GROUPS) == set(SCHEDULES) == set(STAGES) == set(PARAMETERS)
    assert set(DETR_SCHEDULES) == set(DETR_PARAMETERS)


@pytest.mark.parametrize("name", ALL)
def test_recipe_length(name: str) -> None:
    (path,) = ROOT.glob(f"projects/*/configs/{name}.py")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
