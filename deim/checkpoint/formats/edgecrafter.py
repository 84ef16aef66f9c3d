"""Layouts of the official code of EdgeCrafter (ECDet, ECSeg, ECPose) and of its backbone ECViT, for training and for
deployment.

Folders with ``model.safetensors`` that ``PyTorchModelHubMixin`` writes have the same names. They contain tensors with
several names only once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deim.checkpoint.formats import dinov3, real_time
from deim.checkpoint.formats.deimv2 import HYBRID_ENCODER
from deim.checkpoint.formats.dfine import FDR, FDR_REPEATS
from deim.checkpoint.formats.format import Format, constant_rules
from deim.checkpoint.renaming import Rule, rename, with_prefix

ECVIT: tuple[Rule, ...] = (
    rename("register_token", "cls_token"),
    rename("patch_embed.convs.#.conv_bn_fused.*", "patch_embed.convs.#.fused.*"),
    rename("patch_embed.*", "patch_embed.*"),
    rename("blocks.#.*", "blocks.#.*"),
)

BACKBONE: tuple[Rule, ...] = (
    *(Rule(("backbone." + rule.external[0],), ("vit." + rule.native[0],)) for rule in ECVIT),
    rename("projector.#.conv_bn_fused.*", "projections.#.fused.*"),
    rename("projector.#.*", "projections.#.*"),
)

DECODER: tuple[Rule, ...] = (
    # The gate contains the second of three normalizations.
    rename("decoder.decoder.layers.#.norm2.*", "decoder.layers.#.norm3.*"),
    *real_time.DECODER,
    *FDR,
)

MASK_HEAD: tuple[Rule, ...] = tuple(
    rename(f"decoder.decoder.segmentation_head.{external}", f"decoder.heads.masks.{native}")
    for external, native in (
        ("blocks.#.dwconv.*", "pixel_blocks.#.depthwise.*"),
        ("blocks.#.norm.*", "pixel_blocks.#.norm.*"),
        ("blocks.#.pwconv1.*", "pixel_blocks.#.pointwise.*"),
        ("spatial_features_proj.*", "pixel_proj.*"),
        ("query_features_block.norm_in.*", "query_block.norm.*"),
        ("query_features_block.layers.0.*", "query_block.linear1.*"),
        ("query_features_block.layers.2.*", "query_block.linear2.*"),
        ("query_features_proj.*", "query_proj.*"),
        ("bias", "bias"),
    )
)

POSE_DECODER: tuple[Rule, ...] = (
    rename("decoder.decoder.layers.#.across_attn.*", "decoder.layers.#.self_attn.*"),
    rename("decoder.decoder.layers.#.across_norm.*", "decoder.layers.#.norm1.*"),
    rename("decoder.decoder.layers.#.norm2.*", "decoder.layers.#.norm3.*"),
    rename("decoder.decoder.layers.#.*", "decoder.layers.#.*"),
    rename("decoder.decoder.half_pose_ref_point_head.*", "decoder.position.mlp.*"),
    rename("decoder.enc_output.*", "decoder.queries.projection.*"),
    rename("decoder.enc_output_norm.*", "decoder.queries.norm.*"),
    rename("decoder.enc_out_class_embed.*", "decoder.queries.score_head.*"),
    rename("decoder.enc_pose_embed.*", "decoder.queries.pose_head.*"),
    rename("decoder.tgt_embed.*", "decoder.queries.content.*"),
    rename("decoder.keypoint_embedding.*", "decoder.queries.keypoint_embedding.*"),
    rename("decoder.instance_embedding.*", "decoder.queries.instance_embedding.*"),
    rename("decoder.label_enc.*", "decoder.denoising.class_embedding.*"),
    rename("decoder.pose_enc.*", "decoder.denoising.keypoint_embedding.*"),
    rename("decoder.class_embed.#.*", "decoder.refinement.score_heads.#.*"),
    rename("decoder.pose_embed.#.*", "decoder.refinement.corner_heads.#.*"),
    rename("decoder.lqe_embed.#.*", "decoder.refinement.quality_heads.#.*"),
    rename("decoder.pre_pose_embed.*", "decoder.refinement.initial_keypoint_head.*"),
    rename("decoder.up", "decoder.refinement.up"),
    rename("decoder.reg_scale", "decoder.refinement.reg_scale"),
)

# Prefix of the vision transformer in the official code.
_VIT = "backbone.backbone."


def _constants(model: Any, image_size: Sequence[int]) -> dict[str, Tensor]:
    return real_time.constants(model, image_size) | _rotary_constants(model)


def _rotary_constants(model: Any) -> dict[str, Tensor]:
    return {_VIT + name: value for name, value in dinov3.constants(model.backbone.vit).items()}


def _pose_constants(model: Any, image_size: Sequence[int]) -> dict[str, Tensor]:
    anchors = real_time.anchors(model, image_size)
    # The official mask is True for tokens that are not valid.
    anchors["decoder.valid_mask"] = ~anchors["decoder.valid_mask"]
    count = model.decoder.layers[0].dim // 2
    temperatures = 10000 ** (2 * (torch.arange(count, dtype=torch.float32) // 2) / count)
    return anchors | {"decoder.decoder.dim_t": temperatures} | _rotary_constants(model)


EDGECRAFTER = Format(
    name="edgecrafter",
    title="the official code of EdgeCrafter",
    systems=("ecdet", "ecseg"),
    signature=(f"{_VIT}register_token", "decoder.dec_bbox_head.#.*"),
    rules=constant_rules(*with_prefix("backbone.", BACKBONE), *HYBRID_ENCODER, *MASK_HEAD, *DECODER),
    repeats=FDR_REPEATS,
    constants=_constants,
    constant_names=(*real_time.CONSTANT_NAMES, f"{_VIT}rope_embed.periods"),
)

ECPOSE = Format(
    name="ecpose",
    title="the official code of EdgeCrafter for poses",
    systems=("ecpose",),
    signature=(f"{_VIT}register_token", "decoder.pose_embed.#.*"),
    rules=constant_rules(*with_prefix("backbone.", BACKBONE), *HYBRID_ENCODER, *POSE_DECODER),
    constants=_pose_constants,
    constant_names=(
        "decoder.anchors",
        "decoder.valid_mask",
        "decoder.decoder.dim_t",
        f"{_VIT}rope_embed.periods",
    ),
    # Labels are the category ids of COCO, of which 0 is unused.
    classes={2: ("", "person")},
)
