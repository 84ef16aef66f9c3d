"""Backbones and encoders of every DEIMv2 model (configs/deimv2 of the official code)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from deim.modeling import HGNetV2, HybridEncoder, LiteEncoder, SpatialTuningAdapter


def adapter(*args, **kwargs) -> Callable[[], nn.Module]:
    return partial(SpatialTuningAdapter, *args, **kwargs)


def hgnetv2(name: str, *stages: str, affine: bool = True) -> Callable[[], nn.Module]:
    return partial(HGNetV2, name, learnable_affine=affine, out_features=stages or ("stage2", "stage3", "stage4"))


lite = partial(LiteEncoder.for_backbone, expansion=0.34, depth_multiplier=0.5)
hybrid = partial(HybridEncoder.for_backbone, merge="sum", skip_equal=True)
light, split = partial(hybrid, fusion="light_elan"), partial(hybrid, fusion="split_elan")

# Model: (backbone, encoder, parameters of each in the official build). The official code has a mask token of 384
# parameters in the backbones of L and X, which only pretraining uses.
MODELS = {
    "dinov3_x": (
        adapter("dinov3_vits16plus", [5, 8, 11], prior_channels=64, out_channels=256),
        light(hidden_dim=256, dim_feedforward=1024, expansion=1.25, depth_multiplier=1.37),
        (30_119_360 - 384, 11_192_064),
    ),
    "dinov3_l": (
        adapter("dinov3_vits16", [5, 8, 11], prior_channels=32, out_channels=224),
        light(hidden_dim=224, dim_feedforward=896),
        (22_173_408 - 384, 5_147_296),
    ),
    "dinov3_m": (
        adapter("vit_tinyplus", [3, 7, 11]),
        light(hidden_dim=256, dim_feedforward=512, expansion=0.67),
        (9_974_032, 4_002_488),
    ),
    "dinov3_s": (
        adapter("vit_tiny", [3, 7, 11]),
        light(hidden_dim=192, dim_feedforward=512, expansion=0.34, depth_multiplier=0.67),
        (5_689_360, 1_367_360),
    ),
    "hgnetv2_x": (
        partial(HGNetV2, "B5", freeze_norm=True),
        light(hidden_dim=384, dim_feedforward=2048),
        (33_231_840, 16_863_104),
    ),
    "hgnetv2_l": (hgnetv2("B4", affine=False), light(), (13_553_376, 7_637_248)),
    "hgnetv2_m": (hgnetv2("B2"), light(depth_multiplier=0.67), (6_026_626, 6_093_056)),
    "hgnetv2_s": (hgnetv2("B0"), split(expansion=0.5, depth_multiplier=0.34), (1_850_396, 3_431_168)),
    "hgnetv2_n": (
        hgnetv2("B0", "stage3", "stage4"),
        split(hidden_dim=128, dim_feedforward=512, expansion=0.34, depth_multiplier=0.5),
        (1_850_396, 638_288),
    ),
    "hgnetv2_pico": (hgnetv2("Pico", "stage3"), lite(hidden_dim=112), (749_202, 258_976)),
    "hgnetv2_femto": (hgnetv2("Femto", "stage3"), lite(hidden_dim=96), (389_832, 196_352)),
    "hgnetv2_atto": (hgnetv2("Atto", "stage3"), lite(hidden_dim=64), (230_344, 80_400)),
}


def backbone_and_encoder(name: str) -> nn.ModuleDict:
    """Return {"backbone": ..., "encoder": ...} of a model, on the meta device."""
    build_backbone, build_encoder, _ = MODELS[name]
    with torch.device("meta"):
        backbone = build_backbone()
        return nn.ModuleDict({"backbone": backbone, "encoder": build_encoder(backbone)})
