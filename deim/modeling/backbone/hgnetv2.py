"""PP-HGNetV2, the backbone of D-FINE (PaddlePaddle's PP-HGNet; B0-B6), and the reduced sizes of DEIMv2."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
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
from deim.layers.conv import ConvBNAct, convolve_parts
from deim.layers.learnable_affine import LearnableAffine
from deim.layers.normalization import can_fuse
from deim.layers.tracing import is_exporting
from deim.modeling.backbone.staged import StagedBackbone
from deim.modeling.backbone.yacs import yacs_keys


@dataclass(frozen=True)
class StageSpec:
    """One stage: ``blocks`` blocks with ``layers`` layers of width ``mid`` and output width ``out``."""

    mid: int
    out: int
    blocks: int
    layers: int
    light: bool = False
    kernel_size: int = 3


def _stages(mids: Sequence[int], outs: Sequence[int], blocks: Sequence[int], layers: int) -> tuple[StageSpec, ...]:
    """Return the stages; the third and the fourth have light layers with 5x5 kernels."""
    return tuple(
        StageSpec(mid, out, count, layers, light=index >= 2, kernel_size=5 if index >= 2 else 3)
        for index, (mid, out, count) in enumerate(zip(mids, outs, blocks, strict=True))
    )


# (stem's middle and output width, stages). DEIMv2 (arXiv 2509.20787) reduces B0: Pico is B0 without the last stage, Femto
# has one block in the third stage, and Atto has a narrower third stage with 3x3 kernels.
_FEMTO = _stages((16, 32, 64), (64, 256, 512), (1, 1, 1), 3)
ARCHITECTURES: dict[str, tuple[tuple[int, int], tuple[StageSpec, ...]]] = {
    "Atto": ((16, 16), (*_FEMTO[:2], StageSpec(64, 256, 1, 3, light=True, kernel_size=3))),
    "Femto": ((16, 16), _FEMTO),
    "Pico": ((16, 16), _stages((16, 32, 64), (64, 256, 512), (1, 1, 2), 3)),
    "B0": ((16, 16), _stages((16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3)),
    "B1": ((24, 32), _stages((32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1), 3)),
    "B2": ((24, 32), _stages((32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4)),
    "B3": ((24, 32), _stages((32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1), 5)),
    "B4": ((32, 48), _stages((48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6)),
    "B5": ((32, 64), _stages((64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6)),
    "B6": ((48, 96), _stages((96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3), 6)),
}
# Sizes that start from the published weights of B0.
REDUCED = ("Atto", "Femto", "Pico")
_PUBLISHED = "https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_{}_stage1.pth"
PRETRAINED = (
    *(PretrainedBackbone(f"B{i}", "imagenet", _PUBLISHED.format(f"B{i}"), UNIT) for i in range(7)),
    *(PretrainedBackbone(size, "imagenet", _PUBLISHED.format("B0"), UNIT) for size in REDUCED),
)


class Clamp(nn.Module):
    """In-place clamping to a lower and an upper bound."""

    def __init__(self, lower: float | None = None, upper: float | None = None):
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_(self.lower, self.upper)


class HGConv(ConvBNAct):
    """Convolution and normalization; with ``activate`` also ReLU and an optional learnable affine."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        activate: bool = True,
        learnable_affine: bool = False,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, groups=groups, activation="relu" if activate else None
        )
        self.affine = LearnableAffine() if activate and learnable_affine else nn.Identity()

    def normalize_and_activate(self, convolved: Tensor) -> Tensor:
        if self.fused is None and isinstance(self.affine, LearnableAffine) and can_fuse(self.norm, convolved):
            return self.affine.fused_norm_relu(self.norm, convolved)
        return self.affine(super().normalize_and_activate(convolved))

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the normalization and the affine into the convolution, in place; further calls have no effect.

        ReLU becomes a clamp, as in :meth:`LearnableAffine.fused_norm_relu`.
        """
        super().fold()
        if not isinstance(self.affine, LearnableAffine):
            return
        assert self.fused is not None
        assert self.fused.bias is not None
        scale, bias = float(self.affine.scale), float(self.affine.bias)
        self.fused.weight.mul_(scale)
        self.fused.bias.mul_(scale).add_(bias)
        self.activation = Clamp(lower=bias) if scale > 0 else Clamp(upper=bias)
        self.affine = nn.Identity()


class LightHGConv(nn.Module):
    """Pointwise convolution without activation, then a depthwise convolution with activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, learnable_affine: bool = False):
        super().__init__()
        self.conv1 = HGConv(in_channels, out_channels, 1, activate=False)
        self.conv2 = HGConv(
            out_channels, out_channels, kernel_size, groups=out_channels, learnable_affine=learnable_affine
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Module):
    """3 channels at stride 1 -> ``out_channels`` at stride 4, through a pooled and a convolved branch."""

    def __init__(self, mid_channels: int, out_channels: int, learnable_affine: bool):
        super().__init__()
        mid, half = mid_channels, mid_channels // 2
        self.stem1 = HGConv(3, mid, 3, 2, learnable_affine=learnable_affine)
        self.stem2a = HGConv(mid, half, 2, learnable_affine=learnable_affine)
        self.stem2b = HGConv(half, mid, 2, learnable_affine=learnable_affine)
        self.stem3 = HGConv(mid * 2, mid, 3, 2, learnable_affine=learnable_affine)
        self.stem4 = HGConv(mid, out_channels, 1, learnable_affine=learnable_affine)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=1, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        # 2x2 kernels at stride 1: one row and one column of zeros at the end keep the size.
        x = F.pad(self.stem1(x), (0, 1, 0, 1))
        convolved = self.stem2b(F.pad(self.stem2a(x), (0, 1, 0, 1)))
        pooled_output, convolved_output = convolve_parts(self.stem3.convolution, self._pooled(x), convolved)
        return self.stem4(self.stem3.normalize_and_activate(pooled_output.add_(convolved_output)))

    def _pooled(self, x: Tensor) -> Tensor:
        # Without gradients, the index of the maximum is not needed: this takes an eighth of the time on a CPU.
        if torch.is_grad_enabled() or x.device.type != "cpu" or is_exporting():
            return self.pool(x)
        rows = torch.maximum(x[:, :, :-1], x[:, :, 1:])
        return torch.maximum(rows[..., :-1], rows[..., 1:])


class HGBlock(nn.Module):
    """Chain of layers; the input and all outputs are concatenated, then squeezed and expanded by 1x1 convolutions."""

    supports_activation_checkpointing = True

    def __init__(self, in_channels: int, spec: StageSpec, residual: bool, learnable_affine: bool):
        super().__init__()
        self.residual = residual
        widths = [in_channels, *[spec.mid] * (spec.layers - 1)]
        layer = LightHGConv if spec.light else HGConv
        self.layers = nn.ModuleList(
            layer(width, spec.mid, spec.kernel_size, learnable_affine=learnable_affine) for width in widths
        )
        total = in_channels + spec.layers * spec.mid
        self.aggregation = nn.Sequential(
            HGConv(total, spec.out // 2, 1, learnable_affine=learnable_affine),
            HGConv(spec.out // 2, spec.out, 1, learnable_affine=learnable_affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        collected = [x]
        for layer in self.layers:
            collected.append(layer(collected[-1]))
        y = self.aggregation(torch.cat(collected, dim=1))
        return y + x if self.residual else y


class HGStage(nn.Module):
    """Optional depthwise downsampling by 2, then blocks; all blocks but the first are residual."""

    def __init__(self, in_channels: int, spec: StageSpec, downsample: bool, learnable_affine: bool):
        super().__init__()
        self.downsample = (
            HGConv(in_channels, in_channels, 3, 2, groups=in_channels, activate=False) if downsample else nn.Identity()
        )
        self.blocks = nn.Sequential(
            *(
                HGBlock(spec.out if index else in_channels, spec, index > 0, learnable_affine)
                for index in range(spec.blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


def _variants(names: Collection[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    affine = any(".affine." in name for name in names)
    for name in reversed(ARCHITECTURES):
        # The reduced sizes have three stages.
        last = f"stage{len(ARCHITECTURES[name][1])}"
        config = f'HGNetV2(name="{name}", learnable_affine={affine}'
        config += f', out_features=["{last}"])' if name in REDUCED else ")"
        yield config, partial(HGNetV2, name, learnable_affine=affine, out_features=[last])


@BACKBONE_REGISTRY.register()
@describe_backbone(BackboneDescription("name", PRETRAINED, _variants))
@yacs_keys("HGNETV2", name="B0", learnable_affine=True)
class HGNetV2(StagedBackbone):
    """PP-HGNetV2.

    Args:
        name: "B0" .. "B6", or "Atto", "Femto" or "Pico", which have three stages.
        learnable_affine: add a learnable affine after each activation (D-FINE N, S and M).
        out_features: subset of "stage1" .. "stage4", at strides 4, 8, 16 and 32.
        freeze_at: number of parts with frozen parameters: 0 none, 1 the stem, 2 the stem and stage1, and so on. Unlike
            in detectron2, their BatchNorms still use the statistics of the batch in training.
        freeze_norm: replace every BatchNorm by a frozen one.
        weights: "imagenet" for the published weights, or the path or URL of a file, such as D-FINE's
            ``PPHGNetV2_B0_stage1.pth``; "" for random weights. "Atto", "Femto" and "Pico" take the tensors that they
            share with B0.

    Raises:
        ValueError: if ``name``, a feature or ``freeze_at`` is invalid.
        CheckpointError: if ``weights`` does not fit.
    """

    @configurable
    def __init__(
        self,
        name: str,
        *,
        learnable_affine: bool = False,
        out_features: Sequence[str] = ("stage2", "stage3", "stage4"),
        freeze_at: int = 0,
        freeze_norm: bool = False,
        weights: str = "",
    ):
        super().__init__()
        if name not in ARCHITECTURES:
            raise ValueError(f"Unknown HGNetV2 {name!r}; choose one of {', '.join(ARCHITECTURES)}")
        (stem_mid, stem_out), specs = ARCHITECTURES[name]
        specs = specs[: self.stages_to_build(out_features, freeze_at, len(specs))]
        self.stem = Stem(stem_mid, stem_out, learnable_affine)
        inputs = [stem_out, *(spec.out for spec in specs[:-1])]
        self.stages = nn.ModuleList(
            HGStage(width, spec, index > 0, learnable_affine)
            for index, (width, spec) in enumerate(zip(inputs, specs, strict=True))
        )
        self.set_feature_shapes(out_features, (spec.out for spec in specs))
        if weights:
            load_backbone_weights(self, backbone_weights_path(weights, "HGNetV2", name), reduced=name in REDUCED)
        self.freeze([self.stem, *self.stages], freeze_at, freeze_norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) images to {feature name: (B, C, H / stride, W / stride)}."""
        return self.run_stages(self.stem(x), self.stages)
