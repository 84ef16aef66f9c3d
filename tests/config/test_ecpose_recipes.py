"""Recipes of ECPose have the hyper-parameters of the official configs."""

from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from detectron2.config import instantiate

from deim.config import SWITCHES, is_on, switch, with_keypoints
from deim.config.annotations import fit_keypoints
from deim.data.datasets.keypoints import KeypointDefinition
from deim.engine.evaluation import build_evaluator
from deim.errors import ConfigError
from deim.schedule import Stage
from deim.structures.keypoints import oks_sigmas
from tests.config.test_recipes import ALL, groups_of
from tests.ecpose import MODELS, PARAMETERS, build_model
from tests.models import batch, recipe


@dataclass(frozen=True)
class Official:
    """Settings of an official config, with those of its base.

    Attributes:
        epochs: all epochs, the first epoch with and without mosaics, and the first epoch without mixup.
        groups: {(learning rate, weight decay): parameters}.
        steps: number of gradient-accumulation steps.
        size: name of the backbone.
        widths: hidden widths of the feed-forward networks of encoder and decoder.
        fusion: width and depth of the fusion stages.
        layers: number of decoder layers.
    """

    epochs: tuple[int, int, int, int]
    groups: dict[tuple[float, float], int]
    steps: int
    size: str
    widths: tuple[int, int]
    fusion: tuple[float, float]
    layers: int


OFFICIAL = {
    "s": Official(
        (92, 4, 45, 90),
        {(2.5e-5, 1e-4): 5_526_984, (2.5e-5, 0.0): 30_480, (5e-4, 0.0): 30_613, (5e-4, 1e-4): 4_401_792},
        1,
        "ecvitt",
        (512, 512),
        (0.34, 0.67),
        3,
    ),
    "m": Official(
        (92, 4, 45, 90),
        {(2.5e-5, 1e-4): 9_825_376, (2.5e-5, 0.0): 40_640, (5e-4, 0.0): 51_130, (5e-4, 1e-4): 10_064_384},
        1,
        "ecvittplus",
        (512, 512),
        (0.75, 0.67),
        4,
    ),
    "l": Official(
        (74, 4, 48, 72),
        {(2.5e-6, 1.25e-4): 22_106_256, (2.5e-6, 0.0): 60_960, (5e-4, 0.0): 57_786, (5e-4, 1.25e-4): 12_341_760},
        2,
        "ecvits",
        (1024, 1024),
        (0.75, 1.0),
        4,
    ),
    "x": Official(
        (74, 4, 48, 72),
        {(2.5e-6, 1.25e-4): 29_184_144, (2.5e-6, 0.0): 70_176, (5e-4, 0.0): 75_194, (5e-4, 1.25e-4): 22_213_120},
        2,
        "ecvitsplus",
        (2048, 2048),
        (1.5, 1.0),
        4,
    ),
}


def test_every_recipe_is_tested() -> None:
    assert set(OFFICIAL) == set(MODELS)
    assert {f"ecpose_{name}_coco" for name in MODELS} == {
        name for name in ALL if name.startswith("ecpose_") and name.endswith("_coco")
    }


@pytest.mark.parametrize("name", OFFICIAL)
def test_numbers_of_parameters_and_parameter_groups(name: str) -> None:
    model = build_model(name)
    parts = (model.backbone, model.encoder, model.decoder)
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == PARAMETERS[name]
    assert groups_of(recipe(f"ecpose_{name}_coco"), model) == OFFICIAL[name].groups


@pytest.mark.parametrize("name", OFFICIAL)
def test_schedules(name: str) -> None:
    cfg, official = recipe(f"ecpose_{name}_coco"), OFFICIAL[name]
    schedule = instantiate(cfg.schedule)
    epochs, dense, strong, final = official.epochs
    stages = [Stage.PLAIN] * dense + [Stage.DENSE] * (strong - dense) + [Stage.STRONG] * (final - strong)
    assert [schedule.stage(epoch) for epoch in range(epochs)] == [*stages, *[Stage.FINAL] * (epochs - final)]
    iterations = epochs * 1000
    rates = [schedule.learning_rate(iteration, iterations) for iteration in (0, 250, 500, 50_000, iterations - 1)]
    assert rates == [0, 0.5, 1, 1, 1]
    assert (schedule.epochs, schedule.checkpoint_epochs, schedule.final_from_best) == (epochs, 12, False)
    train = cfg.train
    assert (train.clip_grad.params.max_norm, train.model_ema.decay, train.model_ema.warmup_iters) == (0.1, 0.9999, 2000)
    assert (train.accumulation_steps, train.best_metric) == (official.steps, "keypoints/AP")
    assert train.iterations.max_iter == epochs * (56_599 // 32)


@pytest.mark.parametrize("name", OFFICIAL)
def test_models(name: str) -> None:
    model, official = recipe(f"ecpose_{name}_coco").model, OFFICIAL[name]
    backbone, encoder, decoder = model.backbone, model.encoder, model.decoder
    assert (backbone.size, list(backbone.out_blocks)) == (official.size, [10, 11])
    assert (encoder.dim_feedforward, decoder.layer.dim_feedforward) == official.widths
    assert (encoder.expansion, encoder.depth_multiplier) == official.fusion
    assert (decoder.num_layers, decoder.queries.num_queries) == (official.layers, 60)
    assert (decoder.layer.num_heads, list(decoder.layer.num_points), decoder.layer.activation) == (8, [4, 4, 4], "relu")
    refinement, denoising = decoder.refinement, decoder.denoising
    assert (refinement.reg_max, refinement.reg_scale, refinement.num_keypoints) == (32, 4.0, 17)
    assert (denoising.num_queries, denoising.num_labels, denoising.label_noise_ratio) == (20, 80, 0.5)
    assert (model.num_classes, model.num_detections) == (1, 60)
    assert [value / 255 for value in model.pixel_mean] == pytest.approx([0.485, 0.456, 0.406])
    assert [value / 255 for value in model.pixel_std] == pytest.approx([0.229, 0.224, 0.225])


@pytest.mark.parametrize("name", OFFICIAL)
def test_losses_and_matching(name: str) -> None:
    criterion = recipe(f"ecpose_{name}_coco").model.criterion
    assert {key: loss.weight for key, loss in criterion.losses.items()} == {
        "loss_vfl": 2, "loss_keypoints": 10, "loss_oks": 4
    }  # fmt: skip
    assert (criterion.losses.loss_vfl.alpha, criterion.losses.loss_vfl.gamma) == (0.25, 2.0)
    assert criterion.losses.loss_keypoints.localization
    assert criterion.losses.loss_oks.localization
    assert criterion.use_union
    cost, (keypoints,) = criterion.matcher.cost, criterion.matcher.further_costs
    assert (cost.weight, cost.alpha, cost.gamma) == (2, 0.25, 2)
    assert (keypoints.l1_weight, keypoints.oks_weight) == (10, 4)


@pytest.mark.parametrize("name", OFFICIAL)
def test_augmentation(name: str) -> None:
    cfg = recipe(f"ecpose_{name}_coco")
    train, schedule = instantiate(cfg.dataloader.train.mapper), instantiate(cfg.schedule)
    mosaic, (zoom_out,), (flip, jitter) = train.mosaic, train.strong, train.weak
    assert (mosaic.tile_size, mosaic.degrees, mosaic.translate, mosaic.scale) == (320, 0, 0, (1, 1))
    assert (train.mosaic_prob, train.multi_scale_repeat, train.color) == (0.5, None, [])
    # The official zoom-out adds a border of 0 to 1.5 sides on each side.
    assert (zoom_out.prob, zoom_out.side_range, zoom_out.centered, zoom_out.fill) == (0.5, (1, 4), True, 0)
    assert (flip.prob, jitter.prob, jitter.hue) == (0.5, 0.5, (-0.4, 0.4))
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.6, 1.4)
    mixup = instantiate(cfg.dataloader.train.mixup)
    (copy_blend,) = (instantiate(node) for node in cfg.dataloader.train.batch_operations)
    # Half of the images are drawn for mixup, which is applied to half of them; the others have copied objects.
    assert (mixup.prob, (1 - mixup.prob) * copy_blend.prob) == (0.25, pytest.approx(0.5))
    assert (mixup.ratio, copy_blend.ratio, copy_blend.num_objects) == ((0.45, 0.55), (0.45, 0.55), 3)
    assert (copy_blend.expand_ratio, copy_blend.min_area) == (None, 0)
    epochs, start, _, stop = OFFICIAL[name].epochs
    for operation in (mixup, copy_blend):
        active = [epoch for epoch in range(epochs) if operation.is_active(epoch, schedule)]
        assert active == list(range(start, stop))
    assert (cfg.dataloader.train.total_batch_size, cfg.dataloader.test.total_batch_size) == (32, 64)
    assert tuple(cfg.dataloader.image_size) == (640, 640)
    assert cfg.dataloader.train.dataset.min_keypoints == 1
    assert list(cfg.dataloader.evaluator.tasks) == ["keypoints"]


def test_switches_of_a_decoder_for_poses() -> None:
    cfg = recipe("ecpose_s_shapes")
    assert [name for name in SWITCHES if is_on(cfg, name)] == ["dense_o2o", "fdr", "denoising", "keypoints"]
    for states in ({"fdr": False}, {"keypoints": False}, {"masks": True}):
        with pytest.raises(ConfigError, match=r"cannot be turned o\w+: the decoder of this config refines poses"):
            switch(recipe("ecpose_s_shapes"), **states)
    switch(cfg, mal=True, hybrid=True, denoising=False)
    cfg.model.decoder.queries.num_one_to_many = 10
    losses = instantiate(cfg.model)(batch([2, 1], num_keypoints=5))
    assert {"loss_mal", "loss_keypoints_o2m_0", "loss_oks_o2m_pre"} <= losses.keys()
    assert not [name for name in losses if "dn" in name or "vfl" in name]
    with pytest.raises(ConfigError, match="denoising cannot be turned on"):
        switch(cfg, denoising=True)


def test_number_of_keypoints_follows_the_dataset() -> None:
    cfg = recipe("ecpose_s_coco")
    fit_keypoints(cfg, KeypointDefinition(("head", "tail"), (), ()))
    cfg.model.num_classes = 100  # more than the labels of the recipe
    with torch.device("meta"):
        decoder = instantiate(cfg.model).decoder
    assert (decoder.refinement.quality_heads[0].reg_conf.layers[0].in_features, decoder.queries.num_keypoints) == (
        10,
        2,
    )
    assert decoder.denoising.class_embedding.num_embeddings == 101


def test_constants_of_another_number_of_keypoints_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """A recipe with explicit constants, and data with another number of keypoints."""
    five = "[0.1,0.2,0.3,0.4,0.5]"
    poses = recipe(
        "ecpose_s_shapes", f"model.criterion.quality.sigmas={five}", f"+dataloader.evaluator.kpt_oks_sigmas={five}"
    )
    heads = recipe("deimv2_hgnetv2_atto_shapes")
    with_keypoints(heads.model, 5, [0.1] * 5)
    for cfg in (poses, heads):
        for names, expected, num_warnings in (("abcde", [0.1] * 5, 0), ("ab", [0.05] * 2, 1)):
            caplog.clear()
            fit_keypoints(cfg, KeypointDefinition(tuple(names), (), ()))
            assert caplog.text.count("has OKS constants for 5 keypoints, but the dataset has 2") == num_warnings
            criterion = instantiate(cfg.model.criterion)
            given = [criterion.losses["loss_oks"].sigmas, criterion.matcher.further_costs[0].sigmas]
            constants = [oks_sigmas(len(names), sigmas) for sigmas in given]
            with mock.patch("deim.engine.evaluation.build"):
                build_evaluator(cfg)
            constants.append(list(cfg.dataloader.evaluator.kpt_oks_sigmas))
            assert all(len(sigmas) == len(names) and sigmas[0] == expected[0] for sigmas in constants)


def test_evaluation_uses_the_constants_of_the_training() -> None:
    cfg = recipe("ecpose_s_shapes", "model.criterion.quality.sigmas=[0.1,0.2,0.3,0.4,0.5]")
    criterion = instantiate(cfg.model.criterion)
    assert list(criterion.losses["loss_oks"].sigmas) == list(criterion.quality.sigmas) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert list(criterion.matcher.further_costs[0].sigmas) == [0.1, 0.2, 0.3, 0.4, 0.5]
    with mock.patch("deim.engine.evaluation.build"):
        build_evaluator(cfg)
    assert list(cfg.dataloader.evaluator.kpt_oks_sigmas) == [0.1, 0.2, 0.3, 0.4, 0.5]
