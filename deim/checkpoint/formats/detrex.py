"""Layouts of detrex's Deformable DETR, H-Deformable-DETR, DN-DETR and DN-Deformable-DETR."""

from collections.abc import Sequence
from typing import Any

from deim.checkpoint.formats import deformable_detr, dn_detr
from deim.checkpoint.formats.format import Format, Repeat, constant_rules
from deim.checkpoint.formats.resnet import torchvision_resnet
from deim.checkpoint.renaming import Rule, rename

_BACKBONE = rename("backbone.*", "backbone.*")

# Three maps come from the backbone; the smaller ones are computed from the last map.
_NECK: tuple[Rule, ...] = (
    *(rename(f"neck.extra_convs.{i}.conv.*", f"encoder.input_proj.{3 + i}.0.*") for i in range(2)),
    *(rename(f"neck.extra_convs.{i}.norm.*", f"encoder.input_proj.{3 + i}.1.*") for i in range(2)),
    rename("neck.convs.#.conv.*", "encoder.input_proj.#.0.*"),
    rename("neck.convs.#.norm.*", "encoder.input_proj.#.1.*"),
)


def _feed_forward_and_norm_rules(part: str) -> list[Rule]:
    """Return the rules of the feed-forward networks and norms of the encoder's or decoder's layers."""
    external, native = f"transformer.{part}.layers.#", f"{part}.layers.#"
    return [
        rename(f"{external}.ffns.0.activation.weight", f"{native}.activation.weight"),
        rename(f"{external}.ffns.0.layers.0.0.*", f"{native}.linear1.*"),
        rename(f"{external}.ffns.0.layers.1.*", f"{native}.linear2.*"),
        *(rename(f"{external}.norms.{i}.*", f"{native}.norm{i + 1}.*") for i in range(3)),
    ]


_DEFORMABLE: tuple[Rule, ...] = (
    _BACKBONE,
    *_NECK,
    rename("transformer.level_embeds", "encoder.level_embedding"),
    *_feed_forward_and_norm_rules("encoder"),
    *_feed_forward_and_norm_rules("decoder"),
    rename("transformer.encoder.layers.#.attentions.0.*", "encoder.layers.#.self_attn.*"),
    rename("transformer.decoder.layers.#.attentions.0.attn.*", "decoder.layers.#.self_attn.*"),
    rename("transformer.decoder.layers.#.attentions.1.*", "decoder.layers.#.cross_attn.*"),
)

_PROJECTIONS = {
    "query_content_proj": "query_content",
    "query_pos_proj": "query_position",
    "key_content_proj": "key_content",
    "key_pos_proj": "key_position",
    "query_pos_sine_proj": "query_sine",
    "value_proj": "value_proj",
    "out_proj": "output_proj",
}
_LABEL_EMBEDDING = "denoising_generator.label_encoder.weight"


def _deformable_rules(num_layers: int) -> Sequence[Rule]:
    queries = Rule(("query_embedding.weight",), deformable_detr.QUERIES.native, dim=1)
    return [*_DEFORMABLE, *deformable_detr.PROPOSALS, *deformable_detr.head_rules(num_layers), queries]


def _hybrid_rules(num_layers: int) -> Sequence[Rule]:
    content = rename("query_embedding.weight", "decoder.queries.content.weight")
    return [*_DEFORMABLE, *deformable_detr.PROPOSALS, *deformable_detr.head_rules(num_layers), content]


_DN_TRANSFORMER: tuple[Rule, ...] = (
    rename("input_proj.*", "encoder.input_proj.*"),
    *dn_detr.POSITION,
    *_feed_forward_and_norm_rules("encoder"),
    *_feed_forward_and_norm_rules("decoder"),
    rename("transformer.encoder.layers.#.attentions.0.attn.*", "encoder.layers.#.self_attn.*"),
    *(
        rule
        for index, kind in enumerate(("self", "cross"))
        for rule in dn_detr.conditional_attention(
            kind, {f"attentions.{index}.{external}": native for external, native in _PROJECTIONS.items()}
        )
    ),
    rename("transformer.decoder.post_norm_layer.*", "decoder.refinement.norm.*"),
    rename("anchor_box_embed.weight", "decoder.queries.anchors.weight"),
    Rule((_LABEL_EMBEDDING,), dn_detr.LABELS_AND_CONTENT, last=1),
    *dn_detr.SHARED_HEADS,
)


def _dn_deformable_rules(num_layers: int) -> Sequence[Rule]:
    return [
        *_DEFORMABLE,
        *dn_detr.POSITION,
        *deformable_detr.head_rules(num_layers),
        *dn_detr.queries_with_content(_LABEL_EMBEDDING),
    ]


# Only deformable cross-attention has this tensor.
_SAMPLING_OFFSETS = "transformer.decoder.layers.#.attentions.1.sampling_offsets.weight"

DEFORMABLE_DETR = Format(
    name="detrex",
    title="detrex's Deformable DETR",
    systems=("deformable_detr",),
    signature=("neck.convs.#.*", _SAMPLING_OFFSETS),
    rules=_deformable_rules,
    repeats=deformable_detr.REPEATS,
)

H_DETR = Format(
    name="detrex",
    title="detrex's H-Deformable-DETR",
    systems=("h_deformable_detr",),
    signature=("neck.convs.#.*", _SAMPLING_OFFSETS, "transformer.enc_output.*", "query_embedding.weight"),
    rules=_hybrid_rules,
    repeats=deformable_detr.REPEATS,
)

_DN_REPEATS = (
    Repeat("transformer.decoder.bbox_embed.*", "bbox_embed.*"),
    Repeat("transformer.*.ffns.0.layers.0.1.weight", "transformer.*.ffns.0.activation.weight"),
)


def _is_dilated(model: Any) -> bool:
    return model.backbone.output_shape()["res5"].stride == 16


DN_DETR_DC5 = Format(
    name="detrex",
    title="detrex's DN-DETR with torchvision's dilated backbone",
    systems=("dn_detr",),
    signature=(_LABEL_EMBEDDING, "anchor_box_embed.weight", "backbone.body.*"),
    rules=constant_rules(*torchvision_resnet("backbone.body.", "backbone."), *_DN_TRANSFORMER),
    repeats=_DN_REPEATS,
    supports=_is_dilated,
)

DN_DETR = Format(
    name="detrex",
    title="detrex's DN-DETR",
    systems=("dn_detr",),
    signature=(_LABEL_EMBEDDING, "anchor_box_embed.weight"),
    rules=constant_rules(_BACKBONE, *_DN_TRANSFORMER),
    repeats=_DN_REPEATS,
)

DN_DEFORMABLE = Format(
    name="detrex",
    title="detrex's DN-Deformable-DETR",
    systems=("dn_detr",),
    signature=(_LABEL_EMBEDDING, "tgt_embed.weight", _SAMPLING_OFFSETS),
    rules=_dn_deformable_rules,
    repeats=(Repeat("transformer.decoder.bbox_embed.#.*", "bbox_embed.#.*"),),
)
