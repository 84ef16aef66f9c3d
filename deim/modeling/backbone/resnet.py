"""detectron2's ResNet in the variants of the DETR family."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import nn

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.pretrained import (
    IMAGENET,
    BackboneDescription,
    PretrainedBackbone,
    backbone_weights_path,
    describe_backbone,
)

# Number of blocks in each of the four stages.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
FEATURES = ("res2", "res3", "res4", "res5")
_TORCHVISION = "https://download.pytorch.org/models/"
PRETRAINED = (
    PretrainedBackbone(18, "imagenet", f"{_TORCHVISION}resnet18-f37072fd.pth", IMAGENET),
    PretrainedBackbone(34, "imagenet", f"{_TORCHVISION}resnet34-b627a593.pth", IMAGENET),
    PretrainedBackbone(50, "imagenet", "detectron2://ImageNetPretrained/torchvision/R-50.pkl", IMAGENET),
    PretrainedBackbone(101, "imagenet", f"{_TORCHVISION}resnet101-63fe2227.pth", IMAGENET),
    PretrainedBackbone(152, "imagenet", f"{_TORCHVISION}resnet152-394f9c45.pth", IMAGENET),
)


def _from_config(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
    """Return the arguments from an old-style config with detectron2's keys."""
    options = cfg.MODEL.RESNETS
    return {
        "depth": options.DEPTH,
        "out_features": options.OUT_FEATURES,
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        "norm": options.NORM,
        "dilated": options.RES5_DILATION > 1,
    }


def _variants(names: Collection[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    for depth in sorted(DEPTHS, reverse=True):
        yield f"build_resnet(depth={depth})", partial(build_resnet, depth)


@BACKBONE_REGISTRY.register()
@describe_backbone(BackboneDescription("depth", PRETRAINED, _variants))
@configurable(from_config=_from_config)
def build_resnet(
    depth: int,
    out_features: Sequence[str] = ("res3", "res4", "res5"),
    freeze_at: int = 2,
    norm: str = "FrozenBN",
    dilated: bool = False,
    weights: str = "",
) -> ResNet:
    """Build a ResNet with the stride in the 3x3 convolutions, as in torchvision.

    Args:
        depth: 18, 34, 50, 101 or 152.
        out_features: subset of "res2" .. "res5", at strides 4, 8, 16 and 32.
        freeze_at: number of frozen parts: 0 none, 1 the stem, 2 the stem and res2 (DETR), and so on.
        norm: "FrozenBN", "BN", "SyncBN" or "GN".
        dilated: res5 keeps the stride of res4, and all its blocks but the first are dilated ("DC5").
        weights: "imagenet" for torchvision's published weights, or the path or URL of a file in the layout of
            detectron2, torchvision, timm or transformers; "" for random weights.

    Raises:
        ValueError: if ``depth`` or a feature is invalid, or ``dilated`` is set for fewer than 50 layers.
        CheckpointError: if ``weights`` does not fit.
    """
    if depth not in DEPTHS:
        raise ValueError(f"unknown ResNet depth {depth}; choose one of {', '.join(map(str, DEPTHS))}")
    if not out_features:
        raise ValueError(f"ResNet needs out_features; choose from {list(FEATURES)}")
    unknown = sorted(set(out_features) - set(FEATURES))
    if unknown:
        raise ValueError(f"ResNet has no features {unknown}; choose from {list(FEATURES)}")
    if dilated and depth < 50:
        raise ValueError(f"a ResNet with {depth} layers has no dilated form; choose at least 50 layers")
    stem = BasicStem(in_channels=3, out_channels=64, norm=norm)
    backbone = ResNet(stem, _stages(depth, norm, dilated), out_features=list(out_features))
    if weights:
        load_backbone_weights(backbone, backbone_weights_path(weights, "build_resnet", depth))
    return backbone.freeze(freeze_at)


def _stages(depth: int, norm: str, dilated: bool) -> list[list]:
    expansion = 4 if depth >= 50 else 1
    stages, in_channels = [], 64
    for index, count in enumerate(DEPTHS[depth]):
        width, stride = 64 * 2**index, 1 if index == 0 else 2
        out_channels, options = width * expansion, {}
        if depth >= 50:
            options = {"bottleneck_channels": width, "dilation_per_block": [1] * count}
        if dilated and index == 3:
            stride, options["dilation_per_block"] = 1, [1] + [2] * (count - 1)
        stages.append(
            ResNet.make_stage(
                BottleneckBlock if depth >= 50 else BasicBlock,
                count,
                in_channels=in_channels,
                out_channels=out_channels,
                stride_per_block=[stride] + [1] * (count - 1),
                norm=norm,
                **options,
            )
        )
        in_channels = out_channels
    return stages
