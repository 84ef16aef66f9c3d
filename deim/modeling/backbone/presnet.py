"""PResNet, the backbone of RT-DETR: ResNet-D (arXiv 1812.01187, section 4) as in PaddleDetection."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from detectron2.config import configurable
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.pretrained import (
    UNIT,
    BackboneDescription,
    PretrainedBackbone,
    backbone_weights_path,
    describe_backbone,
)
from deim.layers.conv import ConvBNAct
from deim.modeling.backbone.staged import StagedBackbone
from deim.modeling.backbone.yacs import yacs_keys

# Number of blocks in each of the four stages.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
WIDTHS = (64, 128, 256, 512)
_PUBLISHED = "https://github.com/lyuwenyu/storage/releases/download/v0.1/"
PRETRAINED = (
    PretrainedBackbone(18, "imagenet", f"{_PUBLISHED}ResNet18_vd_pretrained_from_paddle.pth", UNIT),
    PretrainedBackbone(34, "imagenet", f"{_PUBLISHED}ResNet34_vd_pretrained_from_paddle.pth", UNIT),
    PretrainedBackbone(50, "imagenet", f"{_PUBLISHED}ResNet50_vd_ssld_v2_pretrained_from_paddle.pth", UNIT),
    PretrainedBackbone(101, "imagenet", f"{_PUBLISHED}ResNet101_vd_ssld_pretrained_from_paddle.pth", UNIT),
)


class Shortcut(nn.Sequential):
    """1x1 convolution; with a stride, average pooling first, so that no pixel is skipped."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        if stride > 1:
            self.add_module("pool", nn.AvgPool2d(stride, stride, ceil_mode=True))
        self.add_module("conv", ConvBNAct(in_channels, out_channels))


class ResidualBlock(nn.Module):
    """Convolutions whose output is added to the input, or to a projection of the input.

    Args:
        in_channels: input width.
        width: width of the convolutions.
        stride: stride of the block.
        project: use a convolution in the shortcut, as in the first block of every stage.
    """

    supports_activation_checkpointing = True
    expansion: int

    def __init__(self, in_channels: int, width: int, stride: int, project: bool):
        super().__init__()
        self.short = Shortcut(in_channels, width * self.expansion, stride) if project else nn.Identity()

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.short(x))


class BasicBlock(ResidualBlock):
    """Residual block of two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, project: bool):
        super().__init__(in_channels, width, stride, project)
        self.branch2a = ConvBNAct(in_channels, width, 3, stride, activation="relu")
        self.branch2b = ConvBNAct(width, width, 3)

    def branch(self, x: Tensor) -> Tensor:
        return self.branch2b(self.branch2a(x))


class BottleneckBlock(ResidualBlock):
    """Residual block of a 1x1, a strided 3x3 and a widening 1x1 convolution."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, project: bool):
        super().__init__(in_channels, width, stride, project)
        self.branch2a = ConvBNAct(in_channels, width, activation="relu")
        self.branch2b = ConvBNAct(width, width, 3, stride, activation="relu")
        self.branch2c = ConvBNAct(width, width * self.expansion)

    def branch(self, x: Tensor) -> Tensor:
        return self.branch2c(self.branch2b(self.branch2a(x)))


class ResidualStage(nn.Module):
    def __init__(self, block: type[ResidualBlock], in_channels: int, width: int, count: int, stride: int):
        super().__init__()
        first = block(in_channels, width, stride, project=True)
        wide = width * block.expansion
        self.blocks = nn.Sequential(first, *(block(wide, width, 1, project=False) for _ in range(count - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def _variants(names: Collection[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    for depth in sorted(DEPTHS, reverse=True):
        yield f"PResNet(depth={depth})", partial(PResNet, depth)


@BACKBONE_REGISTRY.register()
@describe_backbone(BackboneDescription("depth", PRETRAINED, _variants))
@yacs_keys("PRESNET", depth=50)
class PResNet(StagedBackbone):
    """ResNet-D with 18, 34, 50 or 101 layers.

    Args:
        depth: number of layers.
        out_features: subset of "stage1" .. "stage4", at strides 4, 8, 16 and 32.
        freeze_at: number of parts with frozen parameters: 0 none, 1 the stem, 2 the stem and stage1, and so on. Unlike
            in detectron2, their BatchNorms still use the statistics of the batch in training.
        freeze_norm: replace every BatchNorm by a frozen one.
        weights: "imagenet" for the published weights, or the path or URL of a file with the names of RT-DETR, which
            are also ours; "" for random weights.

    Raises:
        ValueError: if ``depth``, a feature or ``freeze_at`` is invalid.
        CheckpointError: if ``weights`` does not fit.
    """

    @configurable
    def __init__(
        self,
        depth: int,
        *,
        out_features: Sequence[str] = ("stage2", "stage3", "stage4"),
        freeze_at: int = 0,
        freeze_norm: bool = False,
        weights: str = "",
    ):
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"unknown PResNet depth {depth}; choose one of {', '.join(map(str, DEPTHS))}")
        widths = WIDTHS[: self.stages_to_build(out_features, freeze_at)]
        self.conv1 = nn.Sequential()
        for number, (in_channels, out_channels, stride) in enumerate(((3, 32, 2), (32, 32, 1), (32, 64, 1)), 1):
            self.conv1.add_module(f"conv1_{number}", ConvBNAct(in_channels, out_channels, 3, stride, activation="relu"))
        block: type[ResidualBlock] = BottleneckBlock if depth >= 50 else BasicBlock
        channels = [width * block.expansion for width in widths]
        self.res_layers = nn.ModuleList(
            ResidualStage(block, in_channels, width, count, 1 if index == 0 else 2)
            for index, (in_channels, width, count) in enumerate(
                zip([64, *channels[:-1]], widths, DEPTHS[depth], strict=False)
            )
        )
        self.set_feature_shapes(out_features, channels)
        if weights:
            load_backbone_weights(self, backbone_weights_path(weights, "PResNet", depth))
        self.freeze([self.conv1, *self.res_layers], freeze_at, freeze_norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) images to {feature name: (B, C, H / stride, W / stride)}."""
        return self.run_stages(F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1), self.res_layers)
