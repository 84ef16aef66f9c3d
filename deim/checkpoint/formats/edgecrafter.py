"""Layouts of the official code of EdgeCrafter (ECDet, ECSeg) and of its backbone ECViT, for training and for deployment.

Folders with ``model.safetensors`` that ``PyTorchModelHubMixin`` writes have the same names. They contain tensors with
several names only once.
"""

from collections.abc import Sequence
from typing import Any

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

# Prefix of the vision transformer in the official code.
_VIT = "backbone.backbone."


def _constants(model: Any, image_size: Sequence[int]) -> dict[str, Tensor]:
    rotary = {_VIT + name: value for name, value in dinov3.constants(model.backbone.vit).items()}
    return real_time.constants(model, image_size) | rotary


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
