"""Pretrained backbones from backbone files and from detector checkpoints."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deim.checkpoint.backbone import load_backbone_weights
from deim.conversion import convert_backbone
from deim.errors import CheckpointError
from deim.modeling.backbone import HGNetV2, PResNet, build_resnet, build_swin
from tests.checkpoint.test_formats import detector, to_external_layout
from tests.models import randomize

DETECTORS = {
    "dfine": ("dfine/dfine_s_coco", lambda **options: HGNetV2("B0", learnable_affine=True, **options)),
    "rtdetrv2": ("rtdetrv2/rtdetrv2_r18vd_120e_coco", lambda **options: PResNet(18, **options)),
    "deformable_detr": (
        "deformable_detr/deformable_detr_r50_50ep_coco",
        lambda **options: build_resnet(50, freeze_at=0, **options),
    ),
}


def assert_same(actual: nn.Module, expected: nn.Module) -> None:
    expected_state = {n: v for n, v in expected.state_dict().items() if not n.endswith("num_batches_tracked")}
    state = actual.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected_state.items())


@pytest.mark.parametrize("format_name", DETECTORS)
def test_backbone_from_a_detector_and_from_a_backbone_file(
    format_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, build = DETECTORS[format_name]
    model = detector(recipe)
    theirs, _ = to_external_layout(model, recipe, format_name)
    torch.save({"ema": {"module": theirs}}, tmp_path / "detector.pth")
    assert_same(build(weights=str(tmp_path / "detector.pth")), model.backbone)

    prefix = "backbone.0.body." if format_name == "deformable_detr" else "backbone."
    backbone_file = {name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)}
    torch.save(backbone_file | {"fc.weight": torch.zeros(1000, 8)}, tmp_path / "alone.pth")
    with caplog.at_level(logging.INFO):
        assert_same(build(weights=str(tmp_path / "alone.pth")), model.backbone)
    assert "alone.pth; unused: fc.weight" in caplog.text


@pytest.mark.parametrize(
    ("backbone", "config"),
    [
        (HGNetV2("B0", learnable_affine=True), 'HGNetV2(name="B0", learnable_affine=True)'),
        (HGNetV2("B4"), 'HGNetV2(name="B4", learnable_affine=False)'),
        (PResNet(34), "PResNet(depth=34)"),
        (build_resnet(101), "build_resnet(depth=101)"),
        (build_swin("tiny"), 'build_swin(size="tiny", window_size=7)'),
        pytest.param(
            build_swin("tiny", window_size=12), 'build_swin(size="tiny", window_size=12)', marks=pytest.mark.long
        ),
    ],
    ids=["hgnetv2-s", "hgnetv2-l", "presnet", "resnet", "swin", "swin-384"],
)
def test_backbone_is_identified(backbone: nn.Module, config: str, tmp_path: Path) -> None:
    torch.save({"model": backbone.state_dict() | {"head.fc.weight": torch.zeros(2)}}, tmp_path / "file.pth")
    actual = convert_backbone(str(tmp_path / "file.pth"), str(tmp_path / "out.pth"))
    assert actual is not None
    assert (actual.config, actual.unused) == (config, ["head.fc.weight"])
    written = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    state = backbone.state_dict()
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], value) for name, value in state.items())


def test_detector_is_not_identified_as_a_backbone(tmp_path: Path) -> None:
    theirs, _ = to_external_layout(detector("dfine/dfine_n_coco"), "dfine/dfine_n_coco", "dfine")
    torch.save(theirs, tmp_path / "dfine.pth")
    assert convert_backbone(str(tmp_path / "dfine.pth"), str(tmp_path / "out.pth")) is None


def test_caffe2_resnet_is_rejected(tmp_path: Path) -> None:
    """detectron2 publishes it beside torchvision's ResNet. Its strides are in other convolutions, and its images BGR."""
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"conv1_w": np.zeros((64, 3, 7, 7), np.float32)}))
    with pytest.raises(CheckpointError, match=r"is a ResNet of Caffe2, .*torchvision/R-50\.pkl"):
        build_resnet(50, weights=str(tmp_path / "R-50.pkl"))


def test_backbone_of_another_size_is_rejected(tmp_path: Path) -> None:
    torch.save(PResNet(34).state_dict(), tmp_path / "r34.pth")
    with pytest.raises(
        CheckpointError, match=r"does not fit this PResNet: \d+ of the backbone's tensors(.|\n)*res_layers.#"
    ):
        PResNet(50, weights=str(tmp_path / "r34.pth"))


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 50])
def test_features_equal_torchvision(depth: int, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = randomize(getattr(models, f"resnet{depth}")(), 0.01).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = build_resnet(depth, weights=str(tmp_path / "resnet.pth")).eval()
    images = torch.randn(1, 3, 96, 128)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    actual = ours(images)
    for index in (1, 2, 3, 4):
        x = getattr(theirs, f"layer{index}")(x)
        if f"res{index + 1}" in actual:
            torch.testing.assert_close(actual[f"res{index + 1}"], x, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_features_equal_timm_swin(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    # The image is large enough for several windows on every map. timm does not shift the window if a map has only one;
    # detectron2 does.
    theirs = randomize(timm.create_model("swin_tiny_patch4_window7_224", img_size=448), 0.01).eval()
    torch.save(theirs.state_dict(), tmp_path / "swin.pth")
    ours = build_swin("tiny", drop_path_rate=0.0)
    load_backbone_weights(ours, str(tmp_path / "swin.pth"), allowed_missing=("norm1.", "norm2.", "norm3."))
    images, timm_features = torch.randn(1, 3, 448, 448), {}
    x = theirs.patch_embed(images)
    for index, layer in enumerate(theirs.layers):
        x = layer(x)
        timm_features[f"p{index}"] = x.permute(0, 3, 1, 2)
    for name, feature in ours.eval()(images).items():
        # The backbone normalizes each feature map. A classifier has no such norms.
        theirs_feature = timm_features[name]
        expected = nn.functional.layer_norm(theirs_feature.permute(0, 2, 3, 1), theirs_feature.shape[1:2]).permute(
            0, 3, 1, 2
        )
        torch.testing.assert_close(feature, expected, rtol=1e-3, atol=1e-3)
