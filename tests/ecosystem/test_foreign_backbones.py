"""Backbones of detectron2 and detrex with the encoders of deim, and initialized from classifier checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from torch import nn

from deim.engine.initial_state import InitialState, load_initial_weights
from deim.fallback import is_standalone
from tests.models import FAMILIES, batch, recipe

pytestmark = pytest.mark.skipif(
    is_standalone("detectron2") or is_standalone("detrex"), reason="needs the real detectron2 and detrex"
)


def resnet() -> nn.Module:
    from detectron2.modeling.backbone.resnet import BasicStem, ResNet

    return ResNet(BasicStem(norm="FrozenBN"), ResNet.make_default_stages(18, norm="FrozenBN"), out_features=["res5"])


def swin() -> nn.Module:
    from detectron2.modeling.backbone.swin import SwinTransformer

    return SwinTransformer(embed_dim=24, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])


def vit() -> nn.Module:
    from detectron2.modeling import SimpleFeaturePyramid, ViT

    net = ViT(img_size=64, embed_dim=32, depth=2, num_heads=2, out_feature="last_feat", use_rel_pos=True)
    return SimpleFeaturePyramid(net, "last_feat", 16, scale_factors=[2.0, 1.0, 0.5], square_pad=64)


def eva02() -> nn.Module:
    from detrex.modeling.backbone import EVA02_ViT
    from detrex.modeling.backbone.eva_02 import SimpleFeaturePyramid

    options = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3, "pt_hw_seq_len": 4}
    net = EVA02_ViT(**options, window_size=2, window_block_indexes=[0], out_feature="last_feat")
    return SimpleFeaturePyramid(net, "last_feat", 16, scale_factors=[2.0, 1.0, 0.5], square_pad=64)


def mvit() -> nn.Module:
    from detectron2.modeling import MViT

    return MViT(embed_dim=24, depth=4, num_heads=1, last_block_indexes=(0, 1, 2, 3), img_size=64)


def regnet() -> nn.Module:
    from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

    blocks = {"stem_class": SimpleStem, "stem_width": 8, "block_class": ResBottleneckBlock}
    return RegNet(**blocks, depth=4, w_a=8.0, w_0=8, w_m=2.0, group_width=8, out_features=["s2"])


def convnext() -> nn.Module:
    from detrex.modeling import ConvNeXt

    return ConvNeXt(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])


def focalnet() -> nn.Module:
    from detrex.modeling import FocalNet

    return FocalNet(embed_dim=24, depths=(1, 1, 1, 1), focal_levels=(2, 2, 2, 2), focal_windows=(3, 3, 3, 3))


def internimage() -> nn.Module:
    from detrex.modeling.backbone.internimage import InternImage

    return InternImage(core_op="DCNv3_pytorch", channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8])


BUILDERS = (resnet, swin, vit, eva02, mvit, regnet, convnext, focalnet, internimage)


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone, self.decoder = backbone, nn.Linear(2, 2)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda parameter: parameter.__name__)
def test_classifier_checkpoint_loads_into_backbone(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Detector(build())
    # In detectron2's feature pyramid, the network of the classifier is named "net".
    network = getattr(model.backbone, "net", model.backbone)
    # A classifier checkpoint does not contain the norms that a detector adds.
    added = {name for name in network.state_dict() if name.startswith(("norm0", "norm1", "norm2", "norm3"))}
    # The classifier has rotary embeddings for images of another size.
    rotary = {name: torch.zeros(3, 16) for name in network.state_dict() if name.endswith(("freqs_cos", "freqs_sin"))}
    stored = {
        name: torch.rand(value.shape).to(value.dtype) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if name not in added | rotary.keys()
    }
    head = {"head.weight": torch.zeros(10, 4), "head.bias": torch.zeros(10)}
    torch.save({"model": stored | rotary | head}, tmp_path / "classifier.pth")
    load_initial_weights(InitialState(weights=str(tmp_path / "classifier.pth")), model, classes=None)
    loaded = network.state_dict()
    assert len(stored) > 10
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())


def pyramid(net: Any) -> Any:
    """Return a config of ViTDet's pyramid at strides 16 and 32."""
    from detectron2.modeling import SimpleFeaturePyramid

    return LazyCall(SimpleFeaturePyramid)(
        net=net, in_feature="last_feat", out_channels=32, scale_factors=[1.0, 0.5], norm="LN", square_pad=64
    )


def eva02_config() -> Any:
    from detrex.modeling.backbone import EVA02_ViT

    options = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3, "pt_hw_seq_len": 4}
    return pyramid(LazyCall(EVA02_ViT)(**options, window_size=2, window_block_indexes=[0], out_feature="last_feat"))


def eva_config() -> Any:
    from detrex.modeling.backbone import EVAViT

    options = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
    return pyramid(LazyCall(EVAViT)(**options, window_size=2, window_block_indexes=[0], out_feature="last_feat"))


def vit_config() -> Any:
    from detectron2.modeling import ViT

    return pyramid(LazyCall(ViT)(img_size=64, embed_dim=48, depth=2, num_heads=3, out_feature="last_feat"))


def torchvision_config() -> Any:
    from detrex.modeling.backbone import TorchvisionBackbone

    return LazyCall(TorchvisionBackbone)(model_name="resnet18", return_nodes={"layer2": "res3", "layer3": "res4"})


def internimage_config() -> Any:
    from detrex.modeling.backbone.internimage import InternImage

    options = {"channels": 16, "depths": [1, 1, 1, 1], "groups": [1, 2, 4, 8]}
    return LazyCall(InternImage)(core_op="DCNv3_pytorch", **options, out_indices=(1, 2))


def mvit_config() -> Any:
    from detectron2.modeling import MViT

    options = {"embed_dim": 24, "depth": 4, "num_heads": 1, "last_block_indexes": (0, 1, 2, 3), "img_size": 64}
    return LazyCall(MViT)(**options, out_features=("scale3", "scale4"))


def regnet_config() -> Any:
    from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

    blocks = {"stem_class": SimpleStem, "stem_width": 8, "block_class": ResBottleneckBlock}
    sizes = {"depth": 4, "w_a": 8.0, "w_0": 8, "w_m": 2.0, "group_width": 8}
    return LazyCall(RegNet)(**blocks, **sizes, out_features=["s2", "s3"])


CONFIGS = (mvit_config, regnet_config, eva02_config, eva_config, vit_config, torchvision_config, internimage_config)


@pytest.mark.parametrize("family", ["dfine", "dn"])
@pytest.mark.parametrize("build", CONFIGS, ids=lambda parameter: parameter.__name__)
def test_encoders_infer_features_of_backbone(build: Callable[[], Any], family: str) -> None:
    """The config names neither features nor widths of the backbone."""
    cfg = recipe(FAMILIES[family], "model.decoder.queries.num_queries=20", "model.decoder.num_layers=2")
    cfg.model.backbone = build()
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    sum(model(batch([2, 1])).values()).backward()
    gradients = [parameter.grad for parameter in model.backbone.parameters() if parameter.grad is not None]
    assert any(bool(gradient.abs().sum() > 0) for gradient in gradients)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
