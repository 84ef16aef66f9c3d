"""``config.json`` of Hugging Face ``transformers`` for the model of a recipe."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import instantiate

from deim.errors import CheckpointError
from deim.modeling.backbone.hgnetv2 import ARCHITECTURES
from deim.modeling.backbone.presnet import DEPTHS, WIDTHS
from deim.modeling.backbone.resnet import DEPTHS as RESNET_DEPTHS
from deim.modeling.encoder.backbone_features import feature_widths

_STAGES = {"res2": "stage1", "res3": "stage2", "res4": "stage3", "res5": "stage4"}


def build_config(recipe: Any, classes: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``config.json`` and ``preprocessor_config.json`` for a recipe's model.

    Args:
        recipe: LazyConfig of the recipe.
        classes: class names; None for numbered labels.

    Raises:
        CheckpointError: if ``transformers`` has no such model.
    """
    system = recipe.train.recipe.partition("/")[0]
    builders = {"dfine": _dfine, "rtdetrv2": _rtdetrv2, "deformable_detr": _deformable_detr}
    if system not in builders:
        raise CheckpointError(
            f"transformers has no equivalent of {recipe.train.recipe}: it supports D-FINE and RT-DETRv2 as published "
            "by their authors, without DEIM's SiLU and deeper position embedding, and Deformable DETR"
        )
    model = recipe.model
    if model.decoder.layer.activation != "relu":
        raise CheckpointError("transformers uses ReLU in all heads, but this model has a different activation")
    for part in ("norm", "feedforward"):
        if model.decoder.layer.get(part) is not None:
            raise CheckpointError(f"transformers has no equivalent of model.decoder.layer.{part}; use its default")
    config = builders[system](model) | _labels(model.num_classes, classes)
    size = list(recipe.dataloader.get("image_size", (640, 640)))
    return config, _deformable_processor() if system == "deformable_detr" else _real_time_processor(size)


def num_layers(model: Any) -> int:
    """Return the number of decoder layers used for inference, because ``transformers``' RT-DETRv2 predicts with the last."""
    eval_layer, count = model.decoder.eval_layer, model.decoder.num_layers
    return eval_layer + 1 if eval_layer >= 0 else count + eval_layer + 1


def _dfine(model: Any) -> dict[str, Any]:
    backbone, encoder, decoder = model.backbone, model.encoder, model.decoder
    (middle, width), stages = ARCHITECTURES[backbone.name]
    levels = len(backbone.out_features)
    return _real_time(model) | {
        "architectures": ["DFineForObjectDetection"],
        "model_type": "d_fine",
        "backbone_config": {
            "model_type": "hgnet_v2",
            "stem_channels": [3, middle, width],
            "stage_in_channels": [width, *(stage.out for stage in stages[:-1])],
            "stage_mid_channels": [stage.mid for stage in stages],
            "stage_out_channels": [stage.out for stage in stages],
            "stage_num_blocks": [stage.blocks for stage in stages],
            "stage_numb_of_layers": [stage.layers for stage in stages],
            "hidden_sizes": [stage.out for stage in stages],
            "depths": [stage.blocks for stage in stages],
            "use_learnable_affine_block": backbone.learnable_affine,
            "out_features": list(backbone.out_features),
        },
        "feat_strides": [8, 16, 32][-levels:],
        "encode_proj_layers": [levels - 1],
        "depth_mult": encoder.depth_multiplier,
        "decoder_layers": decoder.num_layers,
        "decoder_n_points": list(decoder.layer.num_points),
        "num_feature_levels": len(decoder.layer.num_points),
        "reg_scale": decoder.refinement.reg_scale,
        "eval_idx": decoder.eval_layer,
    }


def _rtdetrv2(model: Any) -> dict[str, Any]:
    backbone, decoder = model.backbone, model.decoder
    deep = backbone.depth >= 50
    return _real_time(model) | {
        "architectures": ["RTDetrV2ForObjectDetection"],
        "model_type": "rt_detr_v2",
        "backbone_config": {
            "model_type": "rt_detr_resnet",
            "embedding_size": 64,
            "hidden_sizes": [width * (4 if deep else 1) for width in WIDTHS],
            "depths": list(DEPTHS[backbone.depth]),
            "layer_type": "bottleneck" if deep else "basic",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": False,
            "out_features": list(backbone.out_features),
        },
        "decoder_layers": num_layers(model),
        "decoder_n_points": decoder.layer.num_points[0],
        "decoder_method": {"bilinear": "default", "nearest": "discrete"}[decoder.layer.sampling],
    }


def _encoder_widths(model: Any) -> list[int]:
    """Return the widths of the backbone's features, finest first."""
    if model.encoder.get("in_channels") is not None:
        return list(model.encoder.in_channels)
    with torch.device("meta"):
        return list(feature_widths(instantiate({**model.backbone, "weights": ""})).values())


def _real_time(model: Any) -> dict[str, Any]:
    encoder, decoder = model.encoder, model.decoder
    return {
        "freeze_backbone_batch_norms": model.backbone.freeze_norm,
        "encoder_in_channels": _encoder_widths(model),
        "encoder_hidden_dim": encoder.hidden_dim,
        "encoder_ffn_dim": encoder.dim_feedforward,
        "hidden_expansion": encoder.expansion,
        "d_model": decoder.layer.dim,
        "decoder_in_channels": list(decoder.input_proj.in_channels),
        "decoder_ffn_dim": decoder.layer.dim_feedforward,
        "decoder_activation_function": decoder.layer.activation,
        "num_queries": decoder.queries.num_queries,
        "num_denoising": decoder.denoising.num_queries,
    }


def _deformable_detr(model: Any) -> dict[str, Any]:
    backbone, encoder, decoder = model.backbone, model.encoder, model.decoder
    if backbone.dilated:
        raise CheckpointError("the ResNet of transformers has no dilated form (DC5)")
    two_stage = "RegionProposals" in str(decoder.queries["_target_"])
    return {
        "architectures": ["DeformableDetrForObjectDetection"],
        "model_type": "deformable_detr",
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": 64,
            "hidden_sizes": [256, 512, 1024, 2048] if backbone.depth >= 50 else [64, 128, 256, 512],
            "depths": list(RESNET_DEPTHS[backbone.depth]),
            "layer_type": "bottleneck" if backbone.depth >= 50 else "basic",
            "out_features": [_STAGES[name] for name in backbone.out_features],
        },
        "d_model": encoder.dim,
        "num_feature_levels": encoder.num_levels,
        "num_queries": decoder.queries.num_queries,
        "two_stage": two_stage,
        "two_stage_num_proposals": decoder.queries.num_queries,
        "with_box_refine": "IterativeRefinement" in str(decoder.refinement["_target_"]),
        "encoder_layers": encoder.num_layers,
        "decoder_layers": decoder.num_layers,
        "encoder_ffn_dim": encoder.dim_feedforward,
        "decoder_ffn_dim": decoder.layer.dim_feedforward,
        "dropout": encoder.dropout,
    }


def _labels(count: int, classes: Sequence[str] | None) -> dict[str, Any]:
    names = list(classes or (f"LABEL_{index}" for index in range(count)))
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _real_time_processor(size: list[int]) -> dict[str, Any]:
    return {
        "image_processor_type": "RTDetrImageProcessor",
        "do_resize": True,
        "size": {"height": size[0], "width": size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "do_pad": False,
    }


def _deformable_processor() -> dict[str, Any]:
    return {
        "image_processor_type": "DeformableDetrImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 800, "longest_edge": 1333},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": True,
    }
