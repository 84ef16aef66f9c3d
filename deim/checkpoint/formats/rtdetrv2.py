"""Layout of the official code of RT-DETR, RT-DETRv2 and DEIM with RT-DETRv2, which use the same names."""

from deim.checkpoint.formats import real_time
from deim.checkpoint.formats.format import Format, constant_rules
from deim.checkpoint.renaming import Rule, rename, with_prefix

PRESNET: tuple[Rule, ...] = (
    # The official shortcut is a pooling and a convolution ``conv``, or the convolution alone in the first stage (stride 1).
    # The native shortcut always has the submodule ``conv``.
    rename("res_layers.0.blocks.#.short.conv.weight", "res_layers.0.blocks.#.short.conv.conv.weight"),
    rename("res_layers.0.blocks.#.short.norm.*", "res_layers.0.blocks.#.short.conv.norm.*"),
    rename("res_layers.*", "res_layers.*"),
    rename("conv1.*", "conv1.*"),
)

RULES: tuple[Rule, ...] = (
    *with_prefix("backbone.", PRESNET),
    *real_time.HYBRID_ENCODER,
    rename("encoder.*", "encoder.*"),
    *real_time.DECODER,
    rename("decoder.dec_bbox_head.#.*", "decoder.refinement.bbox_heads.#.*"),
)


RTDETRV2 = Format(
    name="rtdetrv2",
    title="the official code of RT-DETRv2 and DEIM",
    systems=("rtdetrv2", "deim_rtdetrv2"),
    signature=("decoder.enc_score_head.*", "decoder.dec_bbox_head.#.*", "backbone.res_layers.#.*"),
    rules=constant_rules(*RULES),
    constants=real_time.constants,
    constant_names=real_time.CONSTANT_NAMES,
)
