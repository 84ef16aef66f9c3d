"""Weight layouts of the official code of DN-DETR.

One layout has standard attention, one has deformable attention in the encoder, and one in encoder and decoder.
"""

from collections.abc import Sequence

from deim.checkpoint.formats import deformable_detr
from deim.checkpoint.formats.format import Format, Repeat, constant_rules
from deim.checkpoint.renaming import Rule, rename

# Names that detrex shares.
POSITION: tuple[Rule, ...] = (
    rename("transformer.encoder.query_scale.*", "encoder.position_scale.*"),
    rename("transformer.decoder.query_scale.*", "decoder.position.scale_mlp.*"),
    rename("transformer.decoder.ref_point_head.*", "decoder.position.box_mlp.*"),
    rename("transformer.decoder.ref_anchor_head.*", "decoder.position.size_mlp.*"),
)

# All layers share one head.
SHARED_HEADS: tuple[Rule, ...] = (
    rename("class_embed.*", "decoder.refinement.score_heads.0.*"),
    rename("bbox_embed.*", "decoder.refinement.bbox_heads.0.*"),
)

# The external label embedding has one row per class, for denoising queries. Its last row is the content of all other
# queries. In this project, the two parts are separate parameters.
LABELS_AND_CONTENT = ("decoder.denoising.class_embedding.weight", "decoder.queries.content.weight")

_SELF_ATTENTION = {
    "sa_qcontent_proj": "query_content",
    "sa_qpos_proj": "query_position",
    "sa_kcontent_proj": "key_content",
    "sa_kpos_proj": "key_position",
    "sa_v_proj": "value_proj",
    "self_attn.out_proj": "output_proj",
}
_CROSS_ATTENTION = {
    "ca_qcontent_proj": "query_content",
    "ca_qpos_proj": "query_position",
    "ca_kcontent_proj": "key_content",
    "ca_kpos_proj": "key_position",
    "ca_v_proj": "value_proj",
    "ca_qpos_sine_proj": "query_sine",
}


def conditional_attention(kind: str, names: dict[str, str]) -> list[Rule]:
    """Return the rules of the projections of the decoder's "self" or "cross" attention (``kind``)."""
    return [
        rename(f"transformer.decoder.layers.#.{external}.*", f"decoder.layers.#.{kind}_attn.{native}.*")
        for external, native in names.items()
    ]


def queries_with_content(label_embedding: str) -> list[Rule]:
    """Return the rules of queries with one anchor and one content each, and of the label embedding.

    Args:
        label_embedding: name of the label embedding in the file.
    """
    return [
        rename("tgt_embed.weight", "decoder.queries.content.weight"),
        rename("refpoint_embed.weight", "decoder.queries.anchors.weight"),
        rename(label_embedding, LABELS_AND_CONTENT[0]),
    ]


def _conditional_attention_model_rules(input_proj: Rule, cross_attention: dict[str, str]) -> list[Rule]:
    """Return the rules of a model whose decoder has conditional attention.

    Args:
        input_proj: rule of the projections of the backbone's maps.
        cross_attention: {external name: native name} of the projections that only this model's cross-attention has.
    """
    return [
        *deformable_detr.BACKBONE,
        input_proj,
        *POSITION,
        rename("transformer.encoder.layers.#.*", "encoder.layers.#.*"),
        *conditional_attention("self", _SELF_ATTENTION),
        *conditional_attention("cross", _CROSS_ATTENTION | cross_attention),
        rename("transformer.decoder.layers.#.*", "decoder.layers.#.*"),
        rename("transformer.decoder.norm.*", "decoder.refinement.norm.*"),
        rename("transformer.patterns.weight", "decoder.queries.patterns.weight"),
        rename("refpoint_embed.weight", "decoder.queries.anchors.weight"),
        Rule(("label_enc.weight",), LABELS_AND_CONTENT, last=1),
        *SHARED_HEADS,
    ]


_PLAIN = _conditional_attention_model_rules(
    rename("input_proj.*", "encoder.input_proj.*"), {"cross_attn.out_proj": "output_proj"}
)
_DEFORMABLE_ENCODER = [
    rename("transformer.level_embed", "encoder.level_embedding"),
    *_conditional_attention_model_rules(
        rename("input_proj.#.#.*", "encoder.input_proj.#.#.*"),
        {"ca_out_v_proj": "output_proj", "lvl_attn": "level_weights"},
    ),
]


def _deformable_rules(num_layers: int) -> Sequence[Rule]:
    return [
        *deformable_detr.BACKBONE,
        *deformable_detr.TRANSFORMER,
        *POSITION,
        *deformable_detr.head_rules(num_layers),
        *queries_with_content("label_enc.weight"),
    ]


_COPIED_BOX_HEAD = (Repeat("transformer.decoder.bbox_embed.*", "bbox_embed.*"),)

DN_DETR = Format(
    name="dn_detr",
    title="the official code of DN-DETR",
    systems=("dn_detr",),
    signature=("label_enc.weight", "transformer.decoder.layers.#.cross_attn.out_proj.*", "backbone.0.body.*"),
    rules=constant_rules(*_PLAIN),
    repeats=_COPIED_BOX_HEAD,
)

DN_DEFORMABLE_ENCODER = Format(
    name="dn_detr",
    title="the official code of DN-DETR with deformable attention in the encoder",
    systems=("dn_detr",),
    signature=("label_enc.weight", "transformer.decoder.layers.#.ca_out_v_proj.*", "backbone.0.body.*"),
    rules=constant_rules(*_DEFORMABLE_ENCODER),
    repeats=_COPIED_BOX_HEAD,
)

DN_DEFORMABLE = Format(
    name="dn_detr",
    title="the official code of DN-DETR with deformable attention in encoder and decoder",
    systems=("dn_detr",),
    signature=("label_enc.weight", "tgt_embed.weight", "backbone.0.body.*"),
    rules=_deformable_rules,
    repeats=_COPIED_BOX_HEAD,
)
