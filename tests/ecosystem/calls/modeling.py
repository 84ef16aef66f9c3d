"""Layers, backbones and model registries."""

# The expressions in CALLS use the imports.
# ruff: noqa: F401

import zlib
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
)
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet, SwinTransformer, make_stage
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import nn

from tests.ecosystem.calls import Approximate

NAN = float("nan")


def fill(module: nn.Module) -> nn.Module:
    """Fill every tensor with values that depend only on its name."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            values = torch.randn(tensor.shape, generator=generator) * 0.1
            tensor.copy_(values.abs() + 0.5 if "running_var" in name else values)
    return module


def tensor_layout(module: nn.Module) -> list:
    """Return the checkpoint layout of a module, and which parameters require gradients."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return [
        (name, tuple(tensor.shape), str(tensor.dtype), name in trained) for name, tensor in module.state_dict().items()
    ]


def features(backbone: nn.Module, height: int = 64, width: int = 96, training: bool = False) -> Any:
    image = torch.sin(torch.arange(3.0 * height * width)).reshape(1, 3, height, width).repeat(2, 1, 1, 1)
    outputs = fill(backbone).train(training)(image)
    return (
        {name: Approximate(value) for name, value in outputs.items()}
        if isinstance(outputs, dict)
        else Approximate(outputs)
    )


def shapes_and_divisibility(backbone: Backbone) -> tuple:
    return backbone.output_shape(), backbone.size_divisibility


def standard_deviations(module: nn.Module) -> dict:
    """Return the standard deviation of each large floating-point tensor, to one significant digit."""
    return {
        n: f"{float(t.std()):.0e}" if t.numel() > 2000 else None
        for n, t in module.state_dict().items()
        if t.is_floating_point()
    }


def resnet(block_type: str = "bottleneck", norm: Any = "BN", depths: tuple = (1, 2, 1), **options: Any) -> ResNet:
    block, extra = (BottleneckBlock, {"bottleneck_channels": 4}) if block_type == "bottleneck" else (BasicBlock, {})
    stages, width = [], 8
    for index, depth in enumerate(depths):
        strides = [1 if index == 0 else 2] + [1] * (depth - 1)
        stages.append(
            ResNet.make_stage(
                block,
                depth,
                in_channels=width,
                out_channels=16 * 2**index,
                stride_per_block=strides,
                norm=norm,
                **extra,
            )
        )
        width = 16 * 2**index
    return ResNet(BasicStem(3, 8, norm), stages, **options)


def swin(**options: Any) -> SwinTransformer:
    return SwinTransformer(
        **{"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 3), "window_size": 3, "out_indices": (0, 1)} | options
    )


def make_norm(**values: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(2, **values).eval()
    return fill(norm)


def normalize(x: torch.Tensor, requires_grad: bool = False, **options: Any) -> Any:
    frozen = fill(FrozenBatchNorm2d(2, **options)).to(x.dtype)
    y = frozen(x.requires_grad_(requires_grad))
    return Approximate(y)


def convert_norms(module: nn.Module) -> list:
    """Convert the norms of a module; return its classes, epsilons and tensor names."""
    result = FrozenBatchNorm2d.convert_frozen_batchnorm(module)
    modules = [
        (name, type(submodule).__name__, getattr(submodule, "eps", None)) for name, submodule in result.named_modules()
    ]
    return [
        result is module,
        modules,
        tensor_layout(result),
        Approximate(torch.cat([t.flatten().float() for t in result.state_dict().values()] or [torch.zeros(0)])),
    ]


def changes_with_norm() -> tuple[bool, bool]:
    """Return whether the frozen statistics, and the frozen weight, change when the converted norm changes."""
    norm = nn.BatchNorm2d(2)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    norm.running_mean += 1
    norm.weight.data += 1
    return bool(frozen.running_mean.sum() > 0), bool(frozen.weight.sum() > 2)


class Plain(Backbone):
    def __init__(self, cfg: Any = None, input_shape: Any = None):
        super().__init__()
        self._out_features = ["a", "b"]
        self._out_feature_channels = {"a": 3, "b": input_shape.channels if input_shape else None, "c": 5}
        self._out_feature_strides = {"a": 4, "b": 8}

    def forward(self, x: torch.Tensor) -> dict:
        return {"a": x}


class Whole(nn.Linear):
    def __init__(self, cfg: Any):
        super().__init__(1, 2)


def no_backbone(cfg: Any, shape: Any) -> nn.Module:
    return nn.Linear(1, 1)


for registry, thing in ((BACKBONE_REGISTRY, Plain), (BACKBONE_REGISTRY, no_backbone), (META_ARCH_REGISTRY, Whole)):
    if thing.__name__ not in registry:
        registry.register(thing)


def make_cfg(**changes: Any) -> Any:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(
        [entry for key, value in changes.items() for entry in (f"MODEL.{key.replace('__', '.')}", value)]
    )
    return cfg


def load_early_version(version: int | None) -> tuple:
    """Load a state dict of an early version of the layer, without statistics."""
    state = {"weight": torch.ones(2), "bias": torch.zeros(2)}
    state = __import__("collections").OrderedDict(state)
    if version is not None:
        state._metadata = {"": {"version": version}}
    layer = fill(FrozenBatchNorm2d(2))
    result = layer.load_state_dict(state, strict=False)
    return list(result.missing_keys), layer.running_mean, layer.running_var


X = "torch.arange(12.0).reshape(1, 2, 2, 3)"
STAGE = "make_stage(BasicBlock, 2, in_channels=4, out_channels=4"

CALLS = [
    "ShapeSpec(), repr(ShapeSpec(3, stride=4)), ShapeSpec(3) == ShapeSpec(channels=3), ShapeSpec(1, 2, 3, 4)",
    "ShapeSpec(5, 6, 7, 8, 9)",
    "repr(FrozenBatchNorm2d(3)), repr(FrozenBatchNorm2d(3, eps=0.1)), FrozenBatchNorm2d(3).num_features",
    "tensor_layout(FrozenBatchNorm2d(2)), FrozenBatchNorm2d(2, 0.25).state_dict()",
    "FrozenBatchNorm2d(0).state_dict()",
    "FrozenBatchNorm2d(-1)",
    *(f"normalize({X}.to(torch.{d}), {g})" for d in ("float32", "float64", "float16", "bfloat16") for g in (False, True)),
    f"normalize({X}, eps=0.5)",
    "normalize(torch.ones(1, 3, 2, 2))",
    "normalize(torch.ones(1, 3, 2, 2), True)",
    "normalize(torch.full((1, 2, 1, 1), NAN))",
    "normalize(torch.zeros(0, 2, 2, 2))",
    "normalize(torch.zeros(2, 2))",
    "load_early_version(None), load_early_version(1), load_early_version(2), load_early_version(3)",
    "convert_norms(make_norm())",
    "convert_norms(make_norm(eps=0.1))",
    "convert_norms(nn.BatchNorm2d(2, affine=False))",
    "convert_norms(nn.BatchNorm2d(2, track_running_stats=False))",
    "convert_norms(nn.Sequential(make_norm(), nn.Sequential(nn.Conv2d(1, 1, 1), make_norm())))",
    "convert_norms(nn.SyncBatchNorm(2))",
    "convert_norms(nn.BatchNorm1d(2))",
    "convert_norms(nn.Sequential(nn.BatchNorm3d(2), nn.GroupNorm(1, 2), nn.LayerNorm(2)))",
    "convert_norms(FrozenBatchNorm2d(2))",
    "convert_norms(nn.Linear(1, 1))",
    "changes_with_norm()",
    "Backbone()",
    "Plain().output_shape(), Plain().size_divisibility",
    "Plain().padding_constraints",
    *(f"tensor_layout(resnet({o}))" for o in ("", "'basic'", "norm='FrozenBN'", "norm='GN', depths=()", "norm=''", "norm='SyncBN'")),
    *(f"tensor_layout(resnet({o}))" for o in ("freeze_at=1", "freeze_at=2", "freeze_at=9", "freeze_at=-1", "out_features=['res2']", "out_features=['stem']", "norm='nothing'", "norm=None", "norm=nn.BatchNorm2d")),
    *(f"shapes_and_divisibility(resnet({o}))" for o in ("", "out_features=['stem', 'res3']", "out_features=['res3', 'res2']", "out_features=[]", "out_features=['nothing']", "out_features=['res9']", "out_features=('res2',)", "depths=(0,)", "out_features=['linear']")),
    *(f"features(resnet({o}))" for o in ("", "'basic'", "norm='FrozenBN'", "out_features=['res3', 'res2', 'stem']", "norm=''", "norm='SyncBN'")),
    "features(resnet(), training=True)",
    "features(resnet(), 33, 47)",
    "resnet()(torch.zeros(3, 8, 8))",
    "resnet()(torch.zeros(1, 1, 8, 8))",
    "tensor_layout(resnet(freeze_at=2).freeze(1))",
    "resnet().stage_names, resnet(out_features=['res3']).stage_names",
    "standard_deviations(resnet(depths=(1, 1, 1)))",
    "tensor_layout(BasicStem()), BasicStem().stride, BasicStem().out_channels, BasicStem(norm='').in_channels",
    "tensor_layout(BasicBlock(4, 8)), tensor_layout(BasicBlock(4, 4, stride=2, norm='FrozenBN'))",
    "tensor_layout(BottleneckBlock(4, 8, bottleneck_channels=2))",
    "features(BottleneckBlock(3, 8, bottleneck_channels=4, stride=2, stride_in_1x1=True), 8, 8)",
    "features(BottleneckBlock(3, 8, bottleneck_channels=4, num_groups=2, dilation=2), 8, 8)",
    "BottleneckBlock(4, 8)",
    "BasicBlock(4, 8, 2)",
    "tensor_layout(BasicBlock(4, 8).freeze())",
    f"[block.stride for block in {STAGE}, stride_per_block=[2, 1])]",
    f"len({STAGE}))",
    f"{STAGE}, stride_per_block=[2])",
    f"{STAGE}, stride_per_block=[2, 1], stride=1)",
    f"{STAGE}, nothing=1)",
    "make_stage(BasicBlock, 0, in_channels=4, out_channels=4)",
    *(f"tensor_layout(swin({o}))" for o in ("", "out_indices=(1,)", "out_indices=[0]", "window_size=4", "depths=(1,), num_heads=(2,), out_indices=(0,)", "embed_dim=8, num_heads=(1, 2)")),
    # detectron2's implementation has no usable size_divisibility
    *(f"swin({o}).output_shape()" for o in ("", "out_indices=(1,)", "out_indices=(1, 0)", "out_indices=()")),
    *(f"features(swin({o}))" for o in ("", "out_indices=(1,)", "window_size=4", "window_size=7", "drop_path_rate=0.0", "depths=(1, 3)")),
    "features(swin(), 45, 61)",
    "features(swin(), 5, 7)",
    "features(swin(drop_path_rate=0.0), training=True)",
    "swin(num_heads=(5, 7))",
    "swin(out_indices=(5,))",
    "swin(nothing=3)",
    "swin()(torch.zeros(1, 1, 32, 32))",
    "standard_deviations(swin(embed_dim=48, num_heads=(2, 4)))",
    "shapes_and_divisibility(build_backbone(make_cfg(BACKBONE__NAME='Plain')))",
    "shapes_and_divisibility(build_backbone(make_cfg(BACKBONE__NAME='Plain'), ShapeSpec(channels=9)))",
    "build_backbone(make_cfg(BACKBONE__NAME='no_backbone'))",
    "build_backbone(make_cfg(BACKBONE__NAME='Nothing'))",
    "tensor_layout(build_model(make_cfg(META_ARCHITECTURE='Whole')))",
    "build_model(make_cfg(META_ARCHITECTURE='Nothing'))",
    "build_model(make_cfg(META_ARCHITECTURE='Whole', DEVICE='nowhere'))",
    "BACKBONE_REGISTRY._name, META_ARCH_REGISTRY._name",
]  # fmt: skip
