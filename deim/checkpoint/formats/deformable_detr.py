"""Layouts of the official code of Deformable DETR and of H-Deformable-DETR, which is based on it."""

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

# Names that detrex shares.
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
    # In the official code norm1 follows the cross-attention and norm2 the self-attention, which comes first.
    rename("transformer.decoder.layers.#.norm1.*", "decoder.layers.#.norm2.*"),
    rename("transformer.decoder.layers.#.norm2.*", "decoder.layers.#.norm1.*"),
    rename("transformer.decoder.layers.#.*", "decoder.layers.#.*"),
)

# The first half of the channels is the position, the second half the content.
QUERIES = Rule(("query_embed.weight",), ("decoder.queries.position.weight", "decoder.queries.content.weight"), dim=1)


def head_rules(num_layers: int) -> list[Rule]:
    """Return the rules of one head per layer, and of one more for the proposals if that head exists."""
    return [
        rename(f"class_embed.{num_layers}.*", "decoder.queries.score_head.*"),
        rename(f"bbox_embed.{num_layers}.*", "decoder.queries.bbox_head.*"),
        rename("class_embed.#.*", "decoder.refinement.score_heads.#.*"),
        rename("bbox_embed.#.*", "decoder.refinement.bbox_heads.#.*"),
    ]


def has_box_refinement(model: Any) -> bool:
    """Return True if each layer corrects the boxes of the previous layer."""
    return hasattr(model.decoder.refinement, "look_forward_twice")


def is_two_stage(model: Any) -> bool:
    """Return True if the initial queries are proposals of the encoder."""
    return hasattr(model.decoder.queries, "score_head")


REPEATS = (
    Repeat("transformer.decoder.bbox_embed.#.*", "bbox_embed.#.*", condition=has_box_refinement),
    Repeat("transformer.decoder.class_embed.#.*", "class_embed.#.*", condition=is_two_stage),
)


def _rules(num_layers: int) -> Sequence[Rule]:
    return [*BACKBONE, *TRANSFORMER, *PROPOSALS, *head_rules(num_layers), QUERIES]


def _hybrid_rules(num_layers: int) -> Sequence[Rule]:
    content = rename("query_embed.weight", "decoder.queries.content.weight")
    return [*BACKBONE, *TRANSFORMER, *PROPOSALS, *head_rules(num_layers), content]


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
