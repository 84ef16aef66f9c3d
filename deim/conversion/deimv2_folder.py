"""``config.json`` of the folders with which the authors of DEIMv2 publish models on Hugging Face.

The folders are written by ``PyTorchModelHubMixin`` for the class ``DEIMv2`` of their notebook ``hf_models.ipynb``. Its
config has the constructor arguments of each part of the model.
"""

from collections.abc import Sequence
from typing import Any

from deim.modeling.backbone.hgnetv2 import ARCHITECTURES
from deim.modeling.backbone.vit import SIZES

_STRIDES = {"stage2": 8, "stage3": 16, "stage4": 32}
# Fusion block of the encoder -> version of the official encoder.
_VERSIONS = {"split_elan": "dfine", "light_elan": "deim"}


def build_deimv2_config(recipe: Any, image_size: Sequence[int]) -> dict[str, Any]:
    """Return the content of ``config.json`` for a DEIMv2 recipe.

    Args:
        recipe: LazyConfig of the recipe.
        image_size: (height, width) for which the model stores anchors.
    """
    model = recipe.model
    is_vit = "name" not in model.backbone
    is_lite = "dim_feedforward" not in model.encoder
    strides = [8, 16, 32] if is_vit else [_STRIDES[name] for name in model.backbone.out_features]
    backbone = {"DINOv3STAs": _vit(model.backbone)} if is_vit else {"HGNetv2": _hgnetv2(model.backbone)}
    encoder = {"LiteEncoder": _lite_encoder(model)} if is_lite else {"HybridEncoder": _hybrid_encoder(model, strides)}
    decoder_strides = [*strides, 2 * strides[-1]] if is_lite else strides
    return {
        **backbone,
        **encoder,
        "DEIMTransformer": _decoder(model, decoder_strides, image_size),
        "PostProcessor": {"num_classes": model.num_classes, "num_top_queries": model.num_detections},
    }


def _hgnetv2(backbone: Any) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "return_idx": [int(name.removeprefix("stage")) - 1 for name in backbone.out_features],
        "freeze_at": backbone.freeze_at - 1,
        "freeze_norm": backbone.freeze_norm,
        "use_lab": backbone.learnable_affine,
        "pretrained": False,
    }


def _vit(backbone: Any) -> dict[str, Any]:
    size = SIZES[backbone.size]
    arguments = {
        "name": backbone.size,
        "embed_dim": size["dim"],
        "num_heads": size["num_heads"],
        "interaction_indexes": list(backbone.out_blocks),
        "conv_inplane": backbone.prior_channels,
    }
    if backbone.out_channels is not None:
        arguments["hidden_dim"] = backbone.out_channels
    return arguments


def _lite_encoder(model: Any) -> dict[str, Any]:
    encoder = model.encoder
    return {
        "in_channels": _backbone_widths(model),
        "feat_strides": [_STRIDES[name] for name in model.backbone.out_features],
        "hidden_dim": encoder.hidden_dim,
        "expansion": encoder.expansion,
        "depth_mult": encoder.depth_multiplier,
        "act": "silu",
    }


def _hybrid_encoder(model: Any, strides: list[int]) -> dict[str, Any]:
    encoder = model.encoder
    return {
        "in_channels": _backbone_widths(model),
        "feat_strides": strides,
        "hidden_dim": encoder.hidden_dim,
        "use_encoder_idx": [len(strides) - 1],
        "num_encoder_layers": 1,
        "nhead": 8,
        "dim_feedforward": encoder.dim_feedforward,
        "dropout": 0.0,
        "enc_act": "gelu",
        "expansion": encoder.expansion,
        "depth_mult": encoder.depth_multiplier,
        "act": "silu",
        "version": _VERSIONS[encoder.fusion],
        "csp_type": "csp2",
        "fuse_op": encoder.merge,
    }


def _backbone_widths(model: Any) -> list[int]:
    backbone = model.backbone
    if "name" not in backbone:
        width = backbone.out_channels or SIZES[backbone.size]["dim"]
        return [width] * 3
    stages = ARCHITECTURES[backbone.name][1]
    return [stages[int(name.removeprefix("stage")) - 1].out for name in backbone.out_features]


def _decoder(model: Any, strides: list[int], image_size: Sequence[int]) -> dict[str, Any]:
    decoder = model.decoder
    layer, refinement, denoising = decoder.layer, decoder.refinement, decoder.denoising
    return {
        "num_classes": model.num_classes,
        "feat_channels": list(decoder.input_proj.in_channels),
        "feat_strides": strides,
        "hidden_dim": layer.dim,
        "num_levels": len(layer.num_points),
        "num_points": list(layer.num_points),
        "num_layers": decoder.num_layers,
        "eval_idx": decoder.eval_layer,
        "num_queries": decoder.queries.num_queries,
        # The official name of the hidden width of SwiGLU before it is split in two.
        "dim_feedforward": 2 * layer.feedforward.hidden_dim,
        "activation": layer.activation,
        "mlp_act": layer.activation,
        "reg_max": refinement.reg_max,
        "reg_scale": refinement.reg_scale,
        "share_bbox_head": refinement.shared_corner_head,
        "use_gateway": "GatedDecoderLayer" in str(layer["_target_"]),
        "num_denoising": 0 if denoising is None else denoising.num_queries,
        "eval_spatial_size": [int(side) for side in image_size],
    }
