"""Models built by name: from recipes, and from old-style (yacs) configs through detectron2's registries."""

import os
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model

from deim import model_zoo
from deim.config import get_config, loading
from deim.config.yacs import add_deim_config
from deim.errors import CheckpointError, ConfigError
from deim.modeling.backbone import HGNetV2, PResNet
from tests.models import batch


def yacs_config():
    cfg = get_cfg()
    add_deim_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_yacs_config_builds_the_model() -> None:
    cfg = yacs_config()
    cfg.MODEL.META_ARCHITECTURE = "DEIMDetector"
    cfg.MODEL.DEIM.RECIPE = "deim_dfine/deim_dfine_n_coco"
    cfg.MODEL.DEIM.NUM_CLASSES = 6
    model = build_model(cfg)
    losses = model(batch([2, 1], size=320))
    assert torch.isfinite(sum(losses.values()))
    assert model.decoder.refinement.score_heads[0].out_features == 6


def test_yacs_config_sets_pixel_format_and_statistics() -> None:
    """detectron2's default is BGR, and its mappers follow INPUT.FORMAT."""
    cfg = yacs_config()
    cfg.MODEL.META_ARCHITECTURE = "DEIMDetector"
    cfg.MODEL.DEIM.RECIPE = "deim_dfine/deim_dfine_n_shapes"
    assert cfg.INPUT.FORMAT == "BGR"
    model = build_model(cfg)
    blue = torch.zeros(3, 64, 64)
    blue[0] = 255.0
    assert [round(float(channel.mean()), 3) for channel in model.normalize(blue)] == [0, 0, 1]
    assert float(model.pixel_std[0]) == 255, "the recipe's value, since PIXEL_STD has detectron2's default"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [51.0, 102.0, 153.0], [255.0, 255.0, 510.0]
    assert [round(float(channel.mean()), 3) for channel in build_model(cfg).normalize(blue)] == [-0.3, -0.4, 0.8]
    cfg.INPUT.FORMAT = "RGB"
    assert [round(float(channel.mean()), 3) for channel in build_model(cfg).normalize(blue)] == [0.8, -0.4, -0.3]
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ValueError, match="input_format must be RGB or BGR, got 'L'"):
        build_model(cfg)


def test_yacs_config_builds_the_backbone() -> None:
    cfg = yacs_config()
    cfg.MODEL.BACKBONE.NAME = "HGNetV2"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.HGNETV2.OUT_FEATURES = ["stage1", "stage4"]
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    assert {n: (s.channels, s.stride) for n, s in shapes.items()} == {"stage1": (64, 4), "stage4": (1024, 32)}
    features = backbone(torch.rand(1, 3, 64, 96))
    assert {n: tuple(f.shape) for n, f in features.items()} == {"stage1": (1, 64, 16, 24), "stage4": (1, 1024, 2, 3)}
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, _ in backbone.named_parameters() if name.startswith(("stem.", "stages.0."))]
    assert frozen


def test_presnet_is_a_detectron2_backbone() -> None:
    cfg = yacs_config()
    cfg.MODEL.BACKBONE.NAME = "PResNet"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.PRESNET.OUT_FEATURES = ["stage1", "stage3"]
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    assert {n: (s.channels, s.stride) for n, s in shapes.items()} == {"stage1": (256, 4), "stage3": (1024, 16)}
    features = backbone(torch.rand(1, 3, 64, 96))
    assert {n: tuple(f.shape) for n, f in features.items()} == {"stage1": (1, 256, 16, 24), "stage3": (1, 1024, 4, 6)}
    trained = {n.split(".")[0] + n.split(".")[1] for n, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"res_layers1", "res_layers2"}, "stages after the last output feature are not built"


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("build_swin", {"p2": (384, 16)}),
        ("build_resnet", {"res4": (1024, 16), "res5": (2048, 16)}),
        ("build_timm", {"p3": (256, 16)}),
        ("build_vit", {"block0": (192, 16)}),
        ("SpatialTuningAdapter", {"p3": (192, 8), "p4": (192, 16), "p5": (192, 32)}),
        ("ECViT", {"p3": (192, 8), "p4": (192, 16), "p5": (192, 32)}),
    ],
)
def test_yacs_config_builds_every_other_backbone(name: str, features: dict[str, tuple[int, int]]) -> None:
    if name == "build_timm":
        pytest.importorskip("timm")
    cfg = yacs_config()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.SWIN.OUT_INDICES = [2]
    cfg.MODEL.VIT.SIZE, cfg.MODEL.VIT.OUT_BLOCKS = "vit_tiny", [0]
    cfg.MODEL.SPATIAL_TUNING.OUT_BLOCKS = cfg.MODEL.ECVIT.OUT_BLOCKS = [0, 1, 2]
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "resnet18", [3]
    if "RESNETS" not in cfg.MODEL:  # the bundled subset does not define this key
        cfg.MODEL.RESNETS = CfgNode({"DEPTH": 50, "NORM": "FrozenBN"})
    cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.RESNETS.RES5_DILATION = ["res4", "res5"], 2
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    assert {key: (shape.channels, shape.stride) for key, shape in shapes.items()} == features
    assert backbone.size_divisibility in (0, 16, 32), "meta-architectures of detectron2 read size_divisibility"


def test_pretrained_backbones_are_loaded_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = PResNet(18, out_features=["stage4"]).state_dict()
    torch.save({**weights, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "resnet18.pth")
    loaded = PResNet(18, freeze_at=1, freeze_norm=True, weights=str(tmp_path / "resnet18.pth"))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, weights[name])
    with pytest.raises(CheckpointError, match=r"resnet18\.pth does not fit this PResNet"):
        PResNet(34, weights=str(tmp_path / "resnet18.pth"))
    with pytest.raises(CheckpointError, match="does not exist"):
        PResNet(18, weights=str(tmp_path / "nowhere.pth"))


def test_model_zoo_names() -> None:
    names = model_zoo.available()
    assert "deim_dfine/deim_dfine_s_coco" in names
    assert "dfine/dfine_x_coco" in names
    model = model_zoo.get("deim_dfine/deim_dfine_n_coco", num_classes=3)
    assert not model.training
    assert model.num_classes == 3


def test_unknown_recipes_list_the_available_names() -> None:
    with pytest.raises(ConfigError, match="deim_dfine/deim_dfine_x_coco"):
        model_zoo.get_config("deim_dfine/deim_dfine_xxl")
    with pytest.raises(ConfigError, match=r"config common/nothing\.py does not exist in "):
        get_config("common/nothing.py")


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        (HGNetV2, {"name": "B9"}, "Unknown HGNetV2 'B9'"),
        (HGNetV2, {"name": "B0", "out_features": ["res5"]}, "no features"),
        (HGNetV2, {"name": "B0", "freeze_at": 9}, "freeze_at"),
        (PResNet, {"depth": 19}, "unknown PResNet depth 19"),
        (PResNet, {"depth": 18, "out_features": ["res5"]}, "no features"),
        (PResNet, {"depth": 18, "freeze_at": 9}, "freeze_at"),
    ],
)
def test_backbones_reject_invalid_arguments(backbone: type, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(**arguments)


def test_common_configs_are_independent_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "common.py").write_text("node = dict(value=1)\n", encoding="utf-8")
    monkeypatch.setattr(loading, "shipped_folder", lambda name: tmp_path)
    first = loading.get_config("common.py")
    first.node.value = 2
    assert loading.get_config("common.py").node.value == 1
    (tmp_path / "common.py").write_text("node = dict(value=3)\n", encoding="utf-8")
    os.utime(tmp_path / "common.py", (1, 1))
    assert loading.get_config("common.py").node.value == 3, "a changed file is loaded again"
