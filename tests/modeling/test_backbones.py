"""Backbones of detectron2, detrex and other libraries under the encoders of this package."""

import importlib
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate

from deim.config import build
from deim.errors import CheckpointError, ConfigError
from deim.fallback import is_standalone
from deim.modeling.backbone import HGNetV2, build_resnet, build_swin, build_timm
from deim.modeling.backbone.hgnetv2 import HGConv, Stem
from tests.models import FAMILIES, batch, randomize, recipe

FEW = ("model.decoder.queries.num_queries=20", "model.decoder.num_layers=2")
BACKBONES = {
    "resnet": LazyCall(build_resnet)(depth=18, out_features=["res3", "res4"], norm="BN", freeze_at=0),
    "swin": LazyCall(build_swin)(size="tiny", out_indices=[1, 2], drop_path_rate=0.0),
    "hgnet": LazyCall(HGNetV2)(name="B0", out_features=["stage2", "stage3"]),
    "timm": LazyCall(build_timm)(name="resnet10t", out_indices=[2, 3]),
}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("family", ["dfine", "deformable"])
def test_encoders_accept_any_backbone(family: str, backbone: str) -> None:
    """The encoder reads the names and widths of the features from the backbone."""
    if backbone == "timm":
        pytest.importorskip("timm")
    cfg = recipe(FAMILIES[family], *FEW)
    cfg.model.backbone = BACKBONES[backbone]
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    shapes = model.backbone.output_shape()
    assert model.encoder.in_features == sorted(shapes, key=lambda name: shapes[name].stride), "finest first"
    sum(model(batch([2, 1])).values()).backward()
    with torch.no_grad():
        assert torch.isfinite(model.eval()(batch([1]))[0]["instances"].scores).all()


@pytest.mark.skipif(is_standalone("detrex"), reason="needs the real detrex")
@pytest.mark.parametrize("name", ["ConvNeXt", "FocalNet"])
def test_detrex_backbones(name: str) -> None:
    module = importlib.import_module("detrex.modeling.backbone")
    options = {
        "ConvNeXt": {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 128], "out_indices": [1, 2]},
        "FocalNet": {"embed_dim": 16, "depths": [1, 1, 1, 1], "out_indices": [1, 2]},
    }
    cfg = recipe(FAMILIES["deformable"], *FEW)
    cfg.model.backbone = LazyCall(getattr(module, name))(**options[name])
    model = instantiate(cfg.model)
    assert model.encoder.input_proj[0][0].in_channels == 32
    assert torch.isfinite(sum(model(batch([2, 1])).values()))


@pytest.mark.skipif(is_standalone("detrex"), reason="needs the real detrex")
def test_detrex_torchvision_backbone_without_output_shape() -> None:
    pytest.importorskip("torchvision")
    from detrex.modeling.backbone import TorchvisionBackbone

    cfg = recipe(FAMILIES["deformable"], *FEW)
    cfg.model.backbone = LazyCall(TorchvisionBackbone)(
        model_name="resnet18", return_nodes={"layer2": "res3", "layer3": "res4"}
    )
    model = build(cfg, "model")
    assert (model.encoder.in_features, model.encoder.input_proj[1][0].in_channels) == (["res3", "res4"], 256)
    assert torch.isfinite(sum(model(batch([2, 1])).values()))


class Plain(torch.nn.Module):
    """Backbone without ``output_shape()`` that returns two maps of different widths."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = torch.nn.Conv2d(3, 24, 3, 8, 1), torch.nn.Conv2d(24, 40, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.fine(images)
        return {"b": self.coarse(fine), "a": fine}


def test_backbone_without_output_shape_is_run_once() -> None:
    cfg = recipe(FAMILIES["deformable"], *FEW)
    cfg.model.backbone = LazyCall(Plain)()
    model = build(cfg, "model").train()
    assert (model.encoder.in_features, model.encoder.input_proj[1][0].in_channels) == (["a", "b"], 40)
    assert model.backbone.training
    assert torch.isfinite(sum(model(batch([2, 1])).values()))


def test_in_features_must_exist_in_the_backbone() -> None:
    cfg = recipe(FAMILIES["deformable"], *FEW, "model.encoder.in_features=[res4]")
    assert build(cfg, "model").encoder.in_features == ["res4"]
    cfg.model.encoder.in_features = ["res4", "res9"]
    with pytest.raises(ConfigError, match="in_features names res9, but the backbone has res3, res4"):
        build(cfg, "model")


def test_backbone_without_named_features_is_rejected() -> None:
    cfg = recipe(FAMILIES["deformable"])
    cfg.model.backbone = LazyCall(torch.nn.Identity)()
    with pytest.raises(ConfigError, match=r"set model\.encoder\.in_features and model\.encoder\.in_channels in"):
        build(cfg, "model")


@torch.no_grad()
def test_dilated_features_contain_strided_features() -> None:
    """DC5: every second row and column of the features equals the features of the network without dilation."""
    torch.manual_seed(0)
    strided = randomize(build_resnet(50, ["res4", "res5"], norm="FrozenBN"), 0.01).double().eval()
    dilated = build_resnet(50, ["res4", "res5"], norm="FrozenBN", dilated=True).double().eval()
    dilated.load_state_dict(strided.state_dict())
    assert dilated.output_shape()["res5"].stride == 16
    images = torch.rand(1, 3, 96, 128, dtype=torch.float64)
    expected, actual = strided(images), dilated(images)
    assert actual["res5"].shape[-2:] == actual["res4"].shape[-2:] == (6, 8)
    torch.testing.assert_close(actual["res5"][..., ::2, ::2], expected["res5"])


def test_the_first_stages_are_frozen() -> None:
    backbone = build_resnet(18, freeze_at=2)
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())


def write_pickle(path: Path, weights: dict) -> None:
    """Write weights as detectron2's model zoo stores its backbones."""
    content = OrderedDict((name, value.numpy()) for name, value in weights.items())
    content["stem.fc.weight"] = np.zeros((1000, 4), np.float32)
    path.write_bytes(pickle.dumps({"model": content, "__author__": "torchvision"}))


def test_weights_of_detectron2_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = randomize(build_resnet(50)).state_dict()
    write_pickle(tmp_path / "R-50.pkl", weights)
    loaded = build_resnet(50, weights=str(tmp_path / "R-50.pkl")).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    with pytest.raises(CheckpointError, match=r"R-50\.pkl does not fit this ResNet"):
        build_resnet(101, weights=str(tmp_path / "R-50.pkl"))


class Malicious:
    def __reduce__(self):
        return print, ("run",)


def test_malicious_pickle_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"model": Malicious()}))
    with pytest.raises(CheckpointError, match=r"builtins\.print is not allowed in a weights file"):
        build_resnet(50, weights=str(tmp_path / "R-50.pkl"))
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (build_resnet, {"depth": 20}, "unknown ResNet depth 20"),
        (build_resnet, {"depth": 18, "dilated": True}, "has no dilated form"),
        (build_resnet, {"depth": 50, "out_features": ["stage2"]}, "has no features"),
        (build_resnet, {"depth": 50, "out_features": []}, "ResNet needs out_features"),
        (HGNetV2, {"name": "B0", "out_features": []}, "HGNetV2 needs out_features"),
        (build_swin, {"size": "huge"}, "unknown Swin size 'huge'"),
        (build_swin, {"size": "tiny", "out_indices": [3, 4]}, r"must be stages from 0 to 3, got \[3, 4\]"),
        (build_swin, {"size": "tiny", "out_indices": []}, "must be stages from 0 to 3"),
    ],
)
def test_invalid_backbone_arguments_are_rejected(function, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(**arguments)


@pytest.mark.parametrize("scale", [0.7, 0.0, -1.3])
@torch.no_grad()
def test_affine_folds_for_both_signs(scale: float) -> None:
    """The results are also equal at the image border, where the zero padding is not affected by the affine."""
    torch.manual_seed(0)
    layer = randomize(HGConv(3, 8, 3, learnable_affine=True)).eval()
    layer.affine.scale.fill_(scale)
    layer.affine.bias.fill_(-0.4)
    x = torch.randn(2, 3, 9, 9)
    expected = layer(x)
    layer.fold()
    assert len(list(layer.modules())) == 4, (
        "the layer, its convolution, its bound, and an identity in place of the affine"
    )
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_stem_pooling_is_equal_with_and_without_gradients() -> None:
    """Without gradients, the pooling does not compute the indices of the maxima."""
    stem = Stem(16, 16, learnable_affine=False)
    x = torch.randn(2, 8, 7, 9)
    x[0, 0, 3, 3] = torch.nan
    with torch.no_grad():
        actual = stem._pooled(x)
    torch.testing.assert_close(actual, stem._pooled(x), rtol=0, atol=0, equal_nan=True)
    assert actual.isnan().sum() == 4
