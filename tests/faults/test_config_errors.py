"""Config errors are reported before training starts, in one message that names the key."""

import argparse
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from deim.config import load_config
from deim.engine.preflight import check_settings
from deim.engine.run import main
from deim.errors import ConfigError, DeimError
from tests.commands import RECIPE, tool, train_arguments
from tests.faults.test_bad_input import expect_error
from tests.models import recipe

# {overrides: part of the error message}
CONFIG_ERRORS = {
    "optimizer.lr=abc": "'optimizer.lr=abc' must be a number, such as",
    "optimizer.lr=-1": "optimizer of the config cannot be built: Invalid learning rate: -1",
    "train.amp.enabled=yes": "must be true or false",
    "dataloader.image_size=640": "must be a list, such as [64, 64]",
    "dataloader.image_size=[32,32] model.decoder.queries.num_queries=21": "the model fails on an image of 32 x 32, the smallest of this run",
    "dataloader.train.mapper.multi_scale_repeat=1 model.decoder.queries.num_queries=21": "an image of 32 x 32, the smallest of this run",
    "dataloader.train.mapper.mosaic_prob=2": "dataloader.train.mapper.mosaic_prob must be in [0, 1], got 2",
    "dataloader.train.mapper.strong.0.prob=2": "unknown key",
    "dataloader.train.total_batch_size=0": "dataloader.train.total_batch_size must be at least 1, got 0",
    "dataloader.test.total_batch_size=0": "dataloader.test.total_batch_size must be at least 1, got 0",
    "dataloader.train.num_workers=-1": "dataloader.train of the config cannot be built",
    "train.memory_format=upside_down": "train.memory_format='upside_down'; choose one of channels_last, contiguous",
    "train.compile=true train.activation_checkpointing=[backbone]": "remove train.activation_checkpointing",
    "train.activation_checkpointing=[neck]": "train.activation_checkpointing: the model has no module neck",
    "model=null": "model of the config has no _target_: it must describe an object to build",
    "model.num_classes=0": "set model.num_classes=6",
    "model.backbone.name=B9": "model.backbone of the config cannot be built: Unknown HGNetV2 'B9'; choose one of Atto",
    "model.backbone.out_features=[stage9]": "model.backbone of the config cannot be built: HGNetV2 has no features",
    "model.encoder.in_channels=[64,128]": "to have 64 channels, but got 256 channels instead",
    "model.encoder.hidden_dim=97": "dim from ${...encoder.hidden_dim}",
    "model.encoder.in_channels=[256]": "model of the config cannot be built: 1 in_channels for 2 in_features",
    "+model.encoder.fusion=x": "model of the config cannot be built: unknown fusion 'x'",
    "model.encoder.nothing=1": "unknown key 'model.encoder.nothing': model.encoder has ",
    "+model.encoder.nothing=1": "model.encoder of the config cannot be built",
    "model.decoder.eval_layer=9": "model.decoder of the config cannot be built: eval_layer 9 is out of range",
    "model.decoder.layer.num_heads=7": "model.decoder.layer of the config cannot be built: dim 96 is not divisible",
    "model.decoder.layer.num_points=[4]": "model.decoder of the config cannot be built: layer attends to 1 maps (num_points",
    "model.decoder.layer.activation=x": "activation from ${..layer.activation}",
    "model.decoder.refinement.reg_max=7": "model.decoder.refinement of the config cannot be built: reg_max must be",
    "model.decoder.queries.num_queries=0": "model.decoder.queries of the config cannot be built",
    "model.decoder.queries.dim=${nowhere}": "model.decoder.queries.dim of the config: Interpolation key 'nowhere' not found",
    "model.criterion.classification=x": "model.criterion of the config: unknown classification loss 'x'; choose one of mal",
    "model.criterion.weights.loss_iou=1": "unknown key 'model.criterion.weights.loss_iou': model.criterion.weights has",
    "+model.criterion.losses.loss_mal.beta=1": "model.criterion of the config cannot be built: losses.loss_mal: ",
    "+model.criterion.losses.loss_iou=1": "losses.loss_iou: 1 is not a loss",
    "train.output_dir=/dev/null/x": "train.output_dir=/dev/null/x cannot be created",
    "train.device=tpu": "train.device='tpu'",
    "train.log_period=0": "train.log_period must be at least 1, got 0",
    "train.max_iter=0": "train.max_iter must be at least 1, got 0",
    "train.checkpointer.period=0": "train.checkpointer.period must be at least 1, got 0",
    "train.model_ema.decay=2": "train.model_ema.decay must be between 0 and 1, got 2",
    "lr_multiplier=null": "lr_multiplier of the config has no _target_: it must describe an object to build",
    "schedule.epochs=0": "schedule.epochs must be an integer of at least 1, got 0",
}


@pytest.mark.parametrize("overrides", CONFIG_ERRORS)
def test_config_error_names_its_key(overrides: str, shapes: Path, tmp_path: Path) -> None:
    arguments = train_arguments(shapes, tmp_path, "train.max_iter=1", *overrides.split())
    args: argparse.Namespace = default_argument_parser().parse_args(arguments)
    with pytest.raises(DeimError) as raised:
        main(args)
    assert CONFIG_ERRORS[overrides] in str(raised.value)
    assert not (tmp_path / "metrics.json").exists(), "before training starts"


def test_command_exits_with_status_2(shapes: Path, tmp_path: Path) -> None:
    arguments = train_arguments(shapes, tmp_path, "model.backbone.name=B9")
    message = expect_error(tool("train_net.py", *arguments))
    assert message.startswith("model.backbone of the config cannot be built: Unknown HGNetV2 'B9'")
    assert "(ValueError in backbone/hgnetv2.py, line " in message
    assert len(message.strip().splitlines()) == 1


def test_recipe_is_found_by_name() -> None:
    assert load_config("deim_dfine/deim_dfine_n_shapes") == load_config(RECIPE)
    with pytest.raises(DeimError, match="the closest names are deim_dfine/deim_dfine_"):
        load_config("deim_dfine/deim_dfine_xxl")


def test_derived_counts_require_integer_overrides() -> None:
    with pytest.raises(ConfigError, match=r"override 'train\.max_iter=many' must be a number, such as 1350"):
        recipe("deim_dfine_n_shapes", "train.max_iter=many")
    with pytest.raises(ConfigError, match=r"train\.max_iter must be an integer, got 1\.5"):
        check_settings(recipe("deim_dfine_n_shapes", "train.max_iter=1.5"), training=True)


def test_device_may_be_chosen_automatically() -> None:
    check_settings(recipe("deim_dfine_n_shapes", "train.device=auto"), training=True)
    with pytest.raises(ConfigError, match=r"train\.device='gpu'"):
        check_settings(recipe("deim_dfine_n_shapes", "train.device=gpu"), training=True)
