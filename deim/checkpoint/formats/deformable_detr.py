"""The official code of Deformable DETR, and of H-Deformable-DETR, which is built on it."""

from collections.abc import Sequence
from typing import Any

from deim.checkpoint.formats.format import Format, Repeat
from deim.checkpoint.formats.resnet import torchvision_resnet
from deim.checkpoint.renaming import Rule, rename

_SWIN = ("patch_embed.*", "layers.#.*", "norm#.*")

BACKBONE: tuple[Rule, ...] = (
    *torchvision_resnet("backbone.0.body.", "backbone."),
    *(rename(f"backbone.0.body.{part}", f"backbone.{part}") for part in _SWIN),
)

# What detrex names alike.
PROPOSALS: tuple[Rule, ...] = (
    rename("transformer.enc_output.*", "decoder.queries.projection.*"),
    rename("transformer.enc_output_norm.*", "decoder.queries.norm.*"),
    rename("transformer.pos_trans.*", "decoder.queries.box_projection.*"),
    rename("transformer.pos_trans_norm.*", "decoder.queries.box_norm.*"),
    rename("transformer.reference_points.*", "decoder.queries.reference_points.*"),
)

TRANSFORMER: tuple[Rule, ...] = (
    rename("input_proj.#.#.*", "encoder.input_proj.#.#.*"),
    rename("transformer.level_embed", "encoder.level_embedding"),
    rename("transformer.encoder.layers.#.*", "encoder.layers.#.*"),
    # There, the first norm follows the cross-attention and the second the self-attention, which comes before.
    rename("transformer.decoder.layers.#.norm1.*", "decoder.layers.#.norm2.*"),
    rename("transformer.decoder.layers.#.norm2.*", "decoder.layers.#.norm1.*"),
    rename("transformer.decoder.layers.#.*", "decoder.layers.#.*"),
)

# Position in the first half of the channels, content in the second.
QUERIES = Rule(("query_embed.weight",), ("decoder.queries.position.weight", "decoder.queries.content.weight"), dim=1)


def heads(num_layers: int) -> list[Rule]:
    """One head for each layer; one more, if there, for the proposals."""
    return [
        rename(f"class_embed.{num_layers}.*", "decoder.queries.score_head.*"),
        rename(f"bbox_embed.{num_layers}.*", "decoder.queries.bbox_head.*"),
        rename("class_embed.#.*", "decoder.refinement.score_heads.#.*"),
        rename("bbox_embed.#.*", "decoder.refinement.bbox_heads.#.*"),
    ]


def refines(model: Any) -> bool:
    """Whether each layer corrects the boxes of the one before."""
    first, second = model.decoder.refinement.bbox_heads[:2]
    return first is not second


def two_stage(model: Any) -> bool:
    """Whether queries begin as the encoder's proposals."""
    return hasattr(model.decoder.queries, "score_head")


REPEATS = (
    Repeat("transformer.decoder.bbox_embed.#.*", "bbox_embed.#.*", when=refines),
    Repeat("transformer.decoder.class_embed.#.*", "class_embed.#.*", when=two_stage),
)


def _rules(num_layers: int) -> Sequence[Rule]:
    return [*BACKBONE, *TRANSFORMER, *PROPOSALS, *heads(num_layers), QUERIES]


def _hybrid_rules(num_layers: int) -> Sequence[Rule]:
    content = rename("query_embed.weight", "decoder.queries.content.weight")
    return [*BACKBONE, *TRANSFORMER, *PROPOSALS, *heads(num_layers), content]


_SIGNATURE = ("transformer.level_embed", "transformer.decoder.layers.#.norm3.*", "class_embed.#.*", "backbone.0.body.*")

DEFORMABLE_DETR = Format(
    name="deformable_detr",
    title="the official code of Deformable DETR",
    systems=("deformable_detr",),
    signature=_SIGNATURE,
    rules=_rules,
    repeats=REPEATS,
)

H_DETR = Format(
    name="h_detr",
    title="the official code of H-Deformable-DETR",
    systems=("h_deformable_detr",),
    signature=(*_SIGNATURE, "transformer.enc_output.*", "query_embed.weight"),
    rules=_hybrid_rules,
    repeats=REPEATS,
)
