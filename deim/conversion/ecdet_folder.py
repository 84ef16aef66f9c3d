"""``config.json`` of the folders with which the authors of EdgeCrafter publish ECDet on Hugging Face.

The folders are written by ``PyTorchModelHubMixin`` for the class ``ECDet`` of their notebook ``hf_models.ipynb``. Its
config has the constructor arguments of each part of the model.
"""

from collections.abc import Sequence
from typing import Any

from deim.modeling.backbone.vit import SIZES

_STRIDES = [8, 16, 32]


def build_ecdet_config(recipe: Any, image_size: Sequence[int]) -> dict[str, Any]:
    """Return the content of ``config.json`` for a recipe of ECDet.

    Args:
        recipe: LazyConfig of the recipe.
        image_size: (height, width) for which the model stores anchors.
    """
    model = recipe.model
    return {
        "backbone": _backbone(model.backbone),
        "encoder": _encoder(model),
        "decoder": _decoder(model, image_size),
        "postprocessor": {
            "num_classes": model.num_classes,
            "use_focal_loss": True,
            "num_top_queries": model.num_detections,
            "remap_mscoco_category": False,
        },
    }


def _backbone(backbone: Any) -> dict[str, Any]:
    size = SIZES[backbone.size]
    return {
        "name": backbone.size,
        "interaction_indexes": list(backbone.out_blocks),
        "embed_dim": size["dim"],
        "num_heads": size["num_heads"],
        "patch_size": 16,
        "proj_dim": backbone.out_channels,
        "num_levels": len(_STRIDES),
        "embed_layer": "ConvPyramidPatchEmbed",
        "ffn_layer": "mlp",
        "ffn_ratio": size["feedforward_dim"] // size["dim"],
        "skip_load_backbone": True,
    }


def _encoder(model: Any) -> dict[str, Any]:
    encoder = model.encoder
    return {
        "in_channels": [model.backbone.out_channels or SIZES[model.backbone.size]["dim"]] * len(_STRIDES),
        "feat_strides": _STRIDES,
        "hidden_dim": encoder.hidden_dim,
        "nhead": 8,
        "dim_feedforward": encoder.dim_feedforward,
        "use_encoder_idx": [len(_STRIDES) - 1],
        "num_encoder_layers": 1,
        "expansion": encoder.expansion,
        "depth_mult": encoder.depth_multiplier,
        "act": encoder.attention_activation,
        "csp_type": "csp2",
        "fuse_op": encoder.merge,
    }


def _decoder(model: Any, image_size: Sequence[int]) -> dict[str, Any]:
    decoder = model.decoder
    layer, refinement, denoising = decoder.layer, decoder.refinement, decoder.denoising
    return {
        "num_classes": model.num_classes,
        "hidden_dim": layer.dim,
        "num_queries": decoder.queries.num_queries,
        "feat_channels": list(decoder.input_proj.in_channels),
        "feat_strides": _STRIDES,
        "num_levels": len(layer.num_points),
        "num_points": list(layer.num_points),
        "nhead": layer.num_heads,
        "num_layers": decoder.num_layers,
        "dim_feedforward": layer.dim_feedforward,
        "activation": layer.activation,
        "num_denoising": 0 if denoising is None else denoising.num_queries,
        "eval_spatial_size": [int(side) for side in image_size],
        "eval_idx": decoder.eval_layer,
        "reg_max": refinement.reg_max,
        "reg_scale": refinement.reg_scale,
        "layer_scale": 1,
        "share_bbox_head": refinement.shared_corner_head,
    }
