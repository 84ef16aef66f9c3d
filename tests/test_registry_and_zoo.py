"""Models by name: recipes, and detectron2's registries from old-style configs."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model

from deim import model_zoo
from deim.config import get_config
from deim.errors import ConfigError
from deim.yacs import add_deim_config
from tests.models import batch


def old_style_config():
    cfg = get_cfg()
    add_deim_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_an_old_style_config_names_the_model() -> None:
    cfg = old_style_config()
    cfg.MODEL.META_ARCHITECTURE = "DEIMDetector"
    cfg.MODEL.DEIM.RECIPE = "deim_dfine/deim_dfine_n_coco"
    cfg.MODEL.DEIM.NUM_CLASSES = 6
    model = build_model(cfg)
    losses = model(batch([2, 1], size=320))
    assert torch.isfinite(sum(losses.values()))
    assert model.decoder.score_heads[0].out_features == 6


def test_an_old_style_config_names_the_backbone() -> None:
    cfg = old_style_config()
    cfg.MODEL.BACKBONE.NAME = "HGNetV2"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.HGNETV2.OUT_FEATURES = ["stage1", "stage4"]
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    assert {n: (s.channels, s.stride) for n, s in shapes.items()} == {"stage1": (64, 4), "stage4": (1024, 32)}
    features = backbone(torch.rand(1, 3, 64, 96))
    assert {n: tuple(f.shape) for n, f in features.items()} == {"stage1": (1, 64, 16, 24), "stage4": (1, 1024, 2, 3)}
    frozen = {n.split(".")[0] + n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert all(name.startswith("stem") or name == "stages0" for name in frozen)
    assert frozen


def test_recipes_have_names() -> None:
    names = model_zoo.available()
    assert "deim_dfine/deim_dfine_s_coco" in names
    assert "dfine/dfine_x_coco" in names
    model = model_zoo.get("deim_dfine/deim_dfine_n_coco", num_classes=3)
    assert not model.training
    assert model.num_classes == 3


def test_unknown_names_are_reported_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="deim_dfine/deim_dfine_s_coco"):
        model_zoo.get_config("deim_dfine/deim_dfine_xxl")
    with pytest.raises(ConfigError, match=r"no config common/nothing\.py"):
        get_config("common/nothing.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "B9"}, "Unknown HGNetV2 'B9'"),
        ({"name": "B0", "out_features": ["res5"]}, "no features"),
        ({"name": "B0", "freeze_at": 9}, "freeze_at"),
    ],
)
def test_backbones_refuse_what_they_cannot_do(arguments: dict, message: str) -> None:
    from deim.backbone import HGNetV2

    with pytest.raises(ValueError, match=message):
        HGNetV2(**arguments)
