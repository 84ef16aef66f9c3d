"""ResNet (arXiv 1512.03385) with detectron2's checkpoint layout."""

import math

from detectron2.layers import FrozenBatchNorm2d
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

from .backbone import Backbone

__all__ = ["BasicBlock", "BasicStem", "BottleneckBlock", "ResNet", "make_stage"]

_NORMS = {
    "": lambda channels: None,
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
}


def _norm(norm, channels) -> nn.Module | None:
    """Return the normalization layer for a name of ``_NORMS`` or a function of the channels."""
    if norm is None:
        return None
    return _NORMS[norm](channels) if isinstance(norm, str) else norm(channels)


class _Conv2d(nn.Conv2d):
    """A convolution without bias, followed by normalization."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, *, norm, dilation=1, groups=1):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm = _norm(norm, out_channels)
        weight_init.c2_msra_fill(self)

    def forward(self, x):
        x = super().forward(x)
        return x if self.norm is None else self.norm(x)


class _Block(nn.Module):
    """Base class of blocks, which have a stride and can be frozen."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def freeze(self):
        """Freeze the parameters of the block and the statistics of its norms."""
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


class _ResidualBlock(_Block):
    def __init__(self, in_channels, out_channels, stride, norm):
        super().__init__(in_channels, out_channels, stride)
        has_same_channels = in_channels == out_channels
        self.shortcut = None if has_same_channels else _Conv2d(in_channels, out_channels, 1, stride, norm=norm)

    def _branch(self, x):
        raise NotImplementedError

    def forward(self, x):
        return F.relu(self._branch(x) + (x if self.shortcut is None else self.shortcut(x)))


class BasicBlock(_ResidualBlock):
    """Residual block of two 3x3 convolutions (ResNet-18 and -34)."""

    def __init__(self, in_channels, out_channels, *, stride=1, norm="BN"):
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _Conv2d(in_channels, out_channels, 3, stride, 1, norm=norm)
        self.conv2 = _Conv2d(out_channels, out_channels, 3, 1, 1, norm=norm)

    def _branch(self, x):
        return self.conv2(F.relu(self.conv1(x)))


class BottleneckBlock(_ResidualBlock):
    """Residual block of 1x1, 3x3 and 1x1 convolutions, with the stride in the 3x3 or in the first (MSRA's weights)."""

    def __init__(
        self,
        in_channels,
        out_channels,
        *,
        bottleneck_channels,
        stride=1,
        num_groups=1,
        norm="BN",
        stride_in_1x1=False,
        dilation=1,
    ):
        super().__init__(in_channels, out_channels, stride, norm)
        stride1, stride3 = (stride, 1) if stride_in_1x1 else (1, stride)
        width = bottleneck_channels
        self.conv1 = _Conv2d(in_channels, width, 1, stride1, norm=norm)
        self.conv2 = _Conv2d(width, width, 3, stride3, dilation, norm=norm, dilation=dilation, groups=num_groups)
        self.conv3 = _Conv2d(width, out_channels, 1, norm=norm)

    def _branch(self, x):
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class BasicStem(_Block):
    """A 7x7 convolution and a max pooling, each with stride 2."""

    def __init__(self, in_channels=3, out_channels=64, norm="BN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _Conv2d(in_channels, out_channels, 7, 2, 3, norm=norm)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages, with the features "stem", "res2", "res3" and so on."""

    def __init__(self, stem, stages, num_classes=None, out_features=None, freeze_at=0):
        """Create the network. Stages after the last returned feature are dropped.

        Args:
            stem: the first layers.
            stages: a list of blocks for each stage.
            num_classes: must be None; the bundled subset of detectron2 has no classifier.
            out_features: names of the features to return; by default the last feature.
            freeze_at: see :meth:`freeze`.

        Raises:
            AssertionError: if a stage has no blocks, or a feature does not exist.
            NotImplementedError: if ``num_classes`` is given.
            ValueError: if ``out_features`` is empty.
        """
        super().__init__()
        if num_classes is not None:
            raise NotImplementedError("The bundled subset of detectron2 has no classifier; install detectron2.")
        names = [f"res{index + 2}" for index in range(len(stages))]
        if out_features is None:
            out_features = names[-1:]
        num_stages = max(names.index(name) + 1 if name in names else 0 for name in out_features)
        self.stem = stem
        self._add_stages(names[:num_stages], stages[:num_stages])
        self._out_features = out_features
        unknown = [name for name in out_features if name not in ("stem", *self.stage_names)]
        if unknown:
            raise AssertionError(f"Available children: stem, {', '.join(names)}; not {unknown}")
        self.freeze(freeze_at)

    def _add_stages(self, names, stages) -> None:
        self.stage_names = tuple(names)
        stride = self.stem.stride
        self._out_feature_strides = {"stem": stride}
        self._out_feature_channels = {"stem": self.stem.out_channels}
        for name, blocks in zip(names, stages, strict=True):
            if not blocks or not all(isinstance(block, _Block) for block in blocks):
                raise AssertionError(f"Stage {name} needs blocks, got {blocks}")
            self.add_module(name, nn.Sequential(*blocks))
            stride *= math.prod(block.stride for block in blocks)
            self._out_feature_strides[name], self._out_feature_channels[name] = stride, blocks[-1].out_channels

    def forward(self, x):
        """Return {name: feature} for images of shape (N, C, H, W), in network order."""
        if x.dim() != 4:
            raise AssertionError(f"ResNet takes an input of shape (N, C, H, W). Got {tuple(x.shape)} instead!")
        features = {}
        for name in ("stem", *self.stage_names):
            x = getattr(self, name)(x)
            if name in self._out_features:
                features[name] = x
        return features

    def freeze(self, freeze_at=0):
        """Freeze the stem (1), and the stages up to "res<freeze_at>" (2 and more)."""
        if freeze_at >= 1:
            self.stem.freeze()
        for index, name in enumerate(self.stage_names, start=2):
            if freeze_at >= index:
                for block in getattr(self, name).children():
                    block.freeze()
        return self

    @staticmethod
    def make_stage(block_class, num_blocks, *, in_channels, out_channels, **kwargs):
        """Return the blocks of one stage.

        Args:
            block_class: class of the blocks.
            num_blocks: number of blocks.
            in_channels: input channels of the first block.
            out_channels: output channels of all blocks.
            kwargs: arguments of the blocks; ``xx_per_block`` lists the argument ``xx`` of each block.

        Raises:
            AssertionError: if such a list does not have ``num_blocks`` entries, or ``xx`` is given as well.
        """
        for name in kwargs:
            argument = name.removesuffix("_per_block")
            if argument != name and (argument in kwargs or len(kwargs[name]) != num_blocks):
                raise AssertionError(f"{name} needs {num_blocks} values, and excludes {argument}")
        blocks = []
        for index in range(num_blocks):
            options = {
                name.removesuffix("_per_block"): value[index] if name.endswith("_per_block") else value
                for name, value in kwargs.items()
            }
            blocks.append(block_class(in_channels=in_channels, out_channels=out_channels, **options))
            in_channels = out_channels
        return blocks


def make_stage(*args, **kwargs):
    """Call :meth:`ResNet.make_stage`."""
    return ResNet.make_stage(*args, **kwargs)
