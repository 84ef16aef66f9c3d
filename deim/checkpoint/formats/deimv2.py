"""Names of the official code of DEIMv2 for backbones and encoders."""

from deim.checkpoint.formats import real_time
from deim.checkpoint.formats.dfine import HGNETV2
from deim.checkpoint.formats.dinov3 import DINOV3
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

# Rules of a backbone and an encoder together, for each combination in the official code.
DINOV3_DETECTOR: tuple[Rule, ...] = (*with_prefix("backbone.", spatial_tuning("dinov3.")), *HYBRID_ENCODER)
VIT_TINY_DETECTOR: tuple[Rule, ...] = (*with_prefix("backbone.", spatial_tuning("dinov3._model.")), *HYBRID_ENCODER)
HGNETV2_DETECTOR: tuple[Rule, ...] = (*with_prefix("backbone.", HGNETV2), *HYBRID_ENCODER)
LITE_DETECTOR: tuple[Rule, ...] = (*with_prefix("backbone.", HGNETV2), *LITE_ENCODER)
