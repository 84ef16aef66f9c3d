"""Configs: loading, overriding, and recipes written for detrex."""

from pathlib import Path

import pytest

from deim.config import load_config
from deim.errors import ConfigError
from tests.conftest import ROOT

RECIPE = str(ROOT / "projects/deim_dfine/configs/deim_dfine_s_coco.py")


def test_overrides_of_nested_keys() -> None:
    cfg = load_config(
        RECIPE,
        [
            "optimizer.lr=1e-3",
            "model.backbone.name=B2",
            "dataloader.image_size=[320,320]",
            "dataloader.train.mapper.strong.0.prob=0.1",
            "train.max_iter=7",
            "+train.mine=1",
        ],
    )
    assert cfg.optimizer.lr == 1e-3
    assert cfg.model.backbone.name == "B2"
    assert list(cfg.dataloader.test.mapper.augmentations[0].shape) == [320, 320]
    assert cfg.dataloader.train.mapper.strong[0].prob == 0.1
    assert cfg.lr_multiplier.max_iter == 7
    assert cfg.train.mine == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=1", r"optimizer has params, lr"),
        ("dataloader.train.mapper.strong.9.prob=1", r"strong has 0, 1 "),
        ("nothing=1", r"the config has "),
        ("train.seed.deep=1", r"train\.seed has no keys"),
    ],
)
def test_unknown_key_lists_the_existing_keys(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(RECIPE, [override])


def test_an_override_replaces_an_interpolation_that_cannot_be_resolved(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text('train = dict(output_dir="${missing}")\ndataloader = model = optimizer = dict()\n')
    assert load_config(str(path), ["train.output_dir=output/run"]).train.output_dir == "output/run"
    with pytest.raises(ConfigError, match=r"train\.output_dir has no keys"):
        load_config(str(path), ["train.output_dir.deep=1"])


@pytest.mark.parametrize(("text", "message"), [("a: [1", "cannot be loaded"), ("", "is empty")])
def test_malformed_yaml_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(str(path))


def test_detrex_recipes_get_default_train_settings(tmp_path: Path) -> None:
    path = tmp_path / "detrex_like.py"
    path.write_text(
        "train = dict(max_iter=90000, eval_period=5000, amp=dict(enabled=False), clip_grad=dict(enabled=False))\n"
        "dataloader = dict()\nmodel = dict()\noptimizer = dict()\nlr_multiplier = dict()\n"
    )
    train = load_config(str(path)).train
    assert train.max_iter == 90000
    assert train.clip_grad.enabled is False
    assert train.clip_grad.params.max_norm == 0.1
    assert train.accumulation_steps == 1
    assert train.amp.dtype == "bfloat16"


def test_loaded_recipes_are_independent() -> None:
    first = load_config(RECIPE)
    first.model.num_classes = 3
    assert load_config(RECIPE).model.num_classes == 80
