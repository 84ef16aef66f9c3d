"""Layouts of the official code of D-FINE and of DEIM with D-FINE, which use the same names."""

from deim.checkpoint.formats import real_time
from deim.checkpoint.formats.format import Format, Repeat, constant_rules
from deim.checkpoint.renaming import Rule, rename, with_prefix

HGNETV2: tuple[Rule, ...] = tuple(
    rename(f"{part}.*.{external}.*", f"{part}.*.{native}.*")
    for part in ("stem", "stages")
    for external, native in (("conv", "conv"), ("bn", "norm"), ("lab", "affine"))
)

FDR: tuple[Rule, ...] = (
    rename("decoder.up", "decoder.refinement.up"),
    rename("decoder.reg_scale", "decoder.refinement.reg_scale"),
    rename("decoder.decoder.lqe_layers.#.*", "decoder.refinement.quality_heads.#.*"),
    rename("decoder.dec_bbox_head.#.*", "decoder.refinement.corner_heads.#.*"),
    rename("decoder.pre_bbox_head.*", "decoder.refinement.initial_bbox_head.*"),
)

RULES: tuple[Rule, ...] = (
    *with_prefix("backbone.", HGNETV2),
    *real_time.HYBRID_ENCODER,
    rename("encoder.downsample_convs.#.0.*", "encoder.downsample_convs.#.*"),
    rename("encoder.*", "encoder.*"),
    *real_time.DECODER,
    *FDR,
)

FDR_REPEATS = (
    Repeat("decoder.decoder.up", "decoder.up"),
    Repeat("decoder.decoder.reg_scale", "decoder.reg_scale"),
)


def _format(name: str, title: str) -> Format:
    return Format(
        name=name,
        title=title,
        systems=("dfine", "deim_dfine"),
        signature=("decoder.pre_bbox_head.*", "decoder.dec_bbox_head.#.*", "backbone.stem.*"),
        rules=constant_rules(*RULES),
        repeats=FDR_REPEATS,
        constants=real_time.constants,
        constant_names=real_time.CONSTANT_NAMES,
    )


DFINE = _format("dfine", "the official code of D-FINE and DEIM")
DEIM = _format("deim", "the official code of DEIM and D-FINE")
