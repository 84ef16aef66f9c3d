"""Layouts of the official code of DEIMv2, in the form for training and in the form for deployment.

Folders with ``model.safetensors`` that ``PyTorchModelHubMixin`` writes have the same names. They contain tensors with
several names only once.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from deim.checkpoint.formats import dinov3, real_time
from deim.checkpoint.formats.dfine import FDR, FDR_REPEATS, HGNETV2
from deim.checkpoint.formats.dinov3 import DINOV3
from deim.checkpoint.formats.format import Format, constant_rules
from deim.checkpoint.renaming import Rule, rename, with_prefix


def spatial_tuning(vit: str) -> list[Rule]:
    """Return the rules of the spatial tuning adapter.

    Args:
        vit: prefix of the transformer in the official code: "dinov3." for DINOv3, "dinov3._model." for ViT-Tiny.
    """
    prior = (
        ("sta.stem.0", "stem.conv"),
        ("sta.stem.1", "stem.norm"),
        ("sta.conv2.0", "convs.0.conv"),
        ("sta.conv2.1", "convs.0.norm"),
        # conv3 and conv4 begin with an activation, which has no parameters.
        ("sta.conv3.1", "convs.1.conv"),
        ("sta.conv3.2", "convs.1.norm"),
        ("sta.conv4.1", "convs.2.conv"),
        ("sta.conv4.2", "convs.2.norm"),
    )
    return [
        *(rename(vit + rule.external[0], "vit." + rule.native[0]) for rule in DINOV3),
        *(rename(f"{external}.*", f"prior.{native}.*") for external, native in prior),
        rename("convs.#.*", "projections.#.conv.*"),
        rename("norms.#.*", "projections.#.norm.*"),
    ]


HYBRID_ENCODER: tuple[Rule, ...] = (
    *real_time.HYBRID_ENCODER,
    rename("encoder.downsample_convs.#.0.*", "encoder.downsample_convs.#.*"),
    rename("encoder.*", "encoder.*"),
)

LITE_ENCODER: tuple[Rule, ...] = (
    rename("encoder.input_proj.0.*", "encoder.input_proj.*"),
    *(
        rename(f"encoder.{external}.{index}.*", f"encoder.{native}.{part}.*")
        for external, native in (("down_sample1", "input_downsample"), ("down_sample2", "downsample"))
        for index, part in ((1, "conv"), (2, "norm"))
    ),
    rename("encoder.bi_fusion.cv.conv_bn_fused.*", "encoder.context.cv.fused.*"),
    rename("encoder.bi_fusion.cv.*", "encoder.context.cv.*"),
    *real_time.HYBRID_ENCODER,
    rename("encoder.fpn_block.*", "encoder.fpn_block.*"),
    rename("encoder.pan_block.*", "encoder.pan_block.*"),
)

DECODER: tuple[Rule, ...] = (
    Rule(
        ("decoder.decoder.layers.#.swish_ffn.w12.*",),
        ("decoder.layers.#.feedforward.w1.*", "decoder.layers.#.feedforward.w2.*"),
    ),
    rename("decoder.decoder.layers.#.swish_ffn.w3.*", "decoder.layers.#.feedforward.w3.*"),
    rename("decoder.decoder.layers.#.gateway.norm.scale", "decoder.layers.#.gateway.norm.weight"),
    rename("decoder.decoder.layers.#.norm#.scale", "decoder.layers.#.norm#.weight"),
    *real_time.DECODER,
    *FDR,
)

# Prefixes of the vision transformer in the official code.
_DINOV3, _VIT_TINY = "dinov3.", "dinov3._model."

# Rules of a detector, for each combination of backbone and encoder in the official code.
DINOV3_DETECTOR: tuple[Rule, ...] = (
    *with_prefix("backbone.", spatial_tuning(_DINOV3)),
    *HYBRID_ENCODER,
    *DECODER,
)
VIT_TINY_DETECTOR: tuple[Rule, ...] = (
    *with_prefix("backbone.", spatial_tuning(_VIT_TINY)),
    *HYBRID_ENCODER,
    *DECODER,
)
HGNETV2_DETECTOR: tuple[Rule, ...] = (*with_prefix("backbone.", HGNETV2), *HYBRID_ENCODER, *DECODER)
LITE_DETECTOR: tuple[Rule, ...] = (*with_prefix("backbone.", HGNETV2), *LITE_ENCODER, *DECODER)


def _is_dinov3(model: Any) -> bool:
    return hasattr(model.backbone, "vit") and model.backbone.vit.storage_tokens is not None


def _is_vit_tiny(model: Any) -> bool:
    return hasattr(model.backbone, "vit") and model.backbone.vit.storage_tokens is None


def _is_lite(model: Any) -> bool:
    return hasattr(model.encoder, "context")


def _has_hgnetv2(model: Any) -> bool:
    return not hasattr(model.backbone, "vit") and not _is_lite(model)


def _format(
    parts: str, signature: Sequence[str], rules: Sequence[Rule], supports: Callable[[nn.Module], bool], vit: str = ""
) -> Format:
    """Return the format of detectors with these parts; ``vit`` is the prefix of the vision transformer, if any."""
    prefix = f"backbone.{vit}"

    def constants(model: Any, image_size: Sequence[int]) -> dict[str, Tensor]:
        rotary = dinov3.constants(model.backbone.vit) if vit else {}
        return real_time.constants(model, image_size) | {prefix + name: value for name, value in rotary.items()}

    def placeholders(model: Any) -> dict[str, Tensor]:
        unused = dinov3.unused(model.backbone.vit) if vit else {}
        return {prefix + name: value for name, value in unused.items()}

    vit_names = (*dinov3.CONSTANTS, "mask_token") if vit else ()
    return Format(
        name="deimv2",
        title=f"the official code of DEIMv2 with {parts}",
        systems=("deimv2",),
        signature=("decoder.decoder.layers.#.swish_ffn.*", *signature),
        rules=constant_rules(*rules),
        repeats=FDR_REPEATS,
        supports=supports,
        constants=constants,
        placeholders=placeholders,
        constant_names=(*real_time.CONSTANT_NAMES, *(prefix + name for name in vit_names)),
    )


FORMATS = (
    _format("DINOv3", ("backbone.dinov3.blocks.#.*",), DINOV3_DETECTOR, _is_dinov3, _DINOV3),
    _format("ViT-Tiny", ("backbone.dinov3._model.*",), VIT_TINY_DETECTOR, _is_vit_tiny, _VIT_TINY),
    _format("HGNetV2", ("backbone.stem.*", "encoder.fpn_blocks.#.*"), HGNETV2_DETECTOR, _has_hgnetv2),
    _format("HGNetV2 and the lite encoder", ("backbone.stem.*", "encoder.bi_fusion.*"), LITE_DETECTOR, _is_lite),
)
