"""Backbones of detectron2 and detrex load their pretrained classifiers when used with the decoders of this project."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from deim.engine.start import Start, load_start
from deim.fallback import is_standalone

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


BUILDERS = (resnet, swin, vit, mvit, regnet, convnext, focalnet, internimage)


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone, self.decoder = backbone, nn.Linear(2, 2)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda one: one.__name__)
def test_it_starts_from_a_file_of_its_classifier(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Detector(build())
    # In detectron2's feature pyramid, the network of the classifier is named "net".
    network = getattr(model.backbone, "net", model.backbone)
    # A classifier checkpoint does not contain the norms that a detector adds.
    added = {name for name in network.state_dict() if name.startswith(("norm0", "norm1", "norm2", "norm3"))}
    stored = {
        name: torch.rand(value.shape).to(value.dtype) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if name not in added
    }
    head = {"head.weight": torch.zeros(10, 4), "head.bias": torch.zeros(10)}
    torch.save({"model": stored | head}, tmp_path / "classifier.pth")
    load_start(Start(weights=str(tmp_path / "classifier.pth")), model, classes=None)
    loaded = network.state_dict()
    assert len(stored) > 10
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())
