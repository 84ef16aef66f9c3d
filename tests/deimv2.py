"""Every DEIMv2 model (configs/deimv2 of the official code), as differences from the common config."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import LazyCall, instantiate
from omegaconf import OmegaConf
from torch import nn

from deim.config import get_config
from deim.modeling import ClampedAddNormDecoderLayer, HGNetV2, LiteEncoder, SpatialTuningAdapter

# Official normalization of images for DINOv3. Models with HGNetV2 do not normalize.
DINOV3_NORMALIZATION = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
# Parts of the fusion blocks of models S and N with HGNetV2.
SPLIT = {"fusion": "split_elan"}


def hgnetv2(name: str, *stages: str, **options: Any) -> dict[str, Any]:
    backbone = {"name": name, "learnable_affine": True, "out_features": list(stages or ("stage2", "stage3", "stage4"))}
    return {"backbone": LazyCall(HGNetV2)(**(backbone | options))}


def dinov3(size: str, out_blocks: Sequence[int], **options: Any) -> dict[str, Any]:
    return {"backbone": LazyCall(SpatialTuningAdapter)(size=size, out_blocks=list(out_blocks), **options)}


def lite(hidden_dim: int) -> dict[str, Any]:
    encoder = LazyCall(LiteEncoder.for_backbone)(
        in_features=None, in_channels=None, hidden_dim=hidden_dim, expansion=0.34, depth_multiplier=0.5
    )
    return {"encoder": encoder}


def decoder(layers: int, feedforward: int, points: Sequence[int] = (3, 6, 3)) -> dict[str, Any]:
    """Return overrides of the decoder; ``feedforward`` is the official ``dim_feedforward``, twice the hidden width."""
    return {
        "decoder.num_layers": layers,
        "decoder.layer.feedforward.hidden_dim": feedforward // 2,
        "decoder.layer.num_points": list(points),
        "decoder.input_proj.in_channels": ["${....encoder.hidden_dim}"] * len(points),
    }


def small(queries: int, feedforward: int) -> dict[str, Any]:
    """Return overrides of decoder and criterion of Atto, Femto and Pico."""
    return {
        **decoder(3, feedforward, (4, 2)),
        "decoder.layer._target_": ClampedAddNormDecoderLayer,
        "decoder.queries.num_queries": queries,
        "decoder.refinement.shared_corner_head": True,
        "criterion.losses.loss_fgl": None,
        "criterion.losses.loss_ddf": None,
        "criterion.use_union": False,
    }


def encoder(**options: Any) -> dict[str, Any]:
    return {f"encoder.{name}": value for name, value in options.items()}


# Overrides of configs/common/models/deimv2.py.
OVERRIDES: dict[str, dict[str, Any]] = {
    "dinov3_x": {
        **dinov3("dinov3_vits16plus", [5, 8, 11], prior_channels=64, out_channels=256),
        **encoder(expansion=1.25, depth_multiplier=1.37),
        **DINOV3_NORMALIZATION,
    },
    "dinov3_l": {
        **dinov3("dinov3_vits16", [5, 8, 11], prior_channels=32, out_channels=224),
        **encoder(hidden_dim=224, dim_feedforward=896),
        **decoder(4, 1792),
        **DINOV3_NORMALIZATION,
    },
    "dinov3_m": {
        **dinov3("vit_tinyplus", [3, 7, 11]),
        **encoder(dim_feedforward=512, expansion=0.67),
        **decoder(4, 512),
        **DINOV3_NORMALIZATION,
    },
    "dinov3_s": {
        **dinov3("vit_tiny", [3, 7, 11]),
        **encoder(hidden_dim=192, dim_feedforward=512, expansion=0.34, depth_multiplier=0.67),
        **decoder(4, 512),
        **DINOV3_NORMALIZATION,
    },
    "hgnetv2_x": {
        **hgnetv2("B5", learnable_affine=False, freeze_at=1, freeze_norm=True),
        **encoder(hidden_dim=384, dim_feedforward=2048),
        "decoder.layer.dim": 256,
        "decoder.refinement.reg_scale": 8.0,
    },
    "hgnetv2_l": hgnetv2("B4", learnable_affine=False),
    "hgnetv2_m": {**hgnetv2("B2"), **encoder(depth_multiplier=0.67), **decoder(4, 2048)},
    "hgnetv2_s": {**hgnetv2("B0"), **encoder(expansion=0.5, depth_multiplier=0.34, **SPLIT), **decoder(3, 2048)},
    "hgnetv2_n": {
        **hgnetv2("B0", "stage3", "stage4"),
        **encoder(hidden_dim=128, dim_feedforward=512, expansion=0.34, depth_multiplier=0.5, **SPLIT),
        **decoder(3, 512, (6, 6)),
    },
    "hgnetv2_pico": {**hgnetv2("Pico", "stage3"), **lite(112), **small(200, 320)},
    "hgnetv2_femto": {**hgnetv2("Femto", "stage3"), **lite(96), **small(150, 256)},
    "hgnetv2_atto": {**hgnetv2("Atto", "stage3"), **lite(64), **small(100, 160)},
}

# Parameters of backbone, encoder and decoder in the official build, and of the whole model in deployment form. The
# official code has a mask token of 384 parameters in the backbones of L and X, which only pretraining uses.
PARAMETERS = {
    "dinov3_x": (30_119_360 - 384, 11_192_064, 9_900_312, 50_260_163 - 384),
    "dinov3_l": (22_173_408 - 384, 5_147_296, 5_230_510, 32_178_043 - 384),
    "dinov3_m": (9_974_032, 4_002_488, 4_381_230, 18_106_355),
    "dinov3_s": (5_689_360, 1_367_360, 2_723_118, 9_707_403),
    "hgnetv2_x": (33_231_840, 16_863_104, 10_196_760, 59_273_315),
    "hgnetv2_l": (13_553_376, 7_637_248, 9_900_312, 30_572_003),
    "hgnetv2_m": (6_026_626, 6_093_056, 6_746_670, 18_525_501),
    "hgnetv2_s": (1_850_396, 3_431_168, 5_169_849, 10_367_027),
    "hgnetv2_n": (1_850_396, 638_288, 1_111_737, 3_571_527),
    "hgnetv2_pico": (749_202, 258_976, 531_361, 1_514_285),
    "hgnetv2_femto": (389_832, 196_352, 397_761, 962_311),
    "hgnetv2_atto": (230_344, 80_400, 198_241, 494_159),
}
MODELS = tuple(OVERRIDES)


def model_config(name: str) -> Any:
    """Return the LazyConfig node of a model, without pretrained weights."""
    model = get_config("common/models/deimv2.py").model
    for key, value in OVERRIDES[name].items():
        OmegaConf.update(model, key, value, merge=False)
    model.backbone.weights = ""
    return model


def build_model(name: str) -> nn.Module:
    """Return a model on the meta device."""
    with torch.device("meta"):
        return instantiate(model_config(name))
