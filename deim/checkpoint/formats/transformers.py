"""Layouts of D-FINE, RT-DETR, RT-DETRv2 and Deformable DETR in Hugging Face ``transformers``."""

from collections.abc import Sequence

from torch import Tensor, nn

from deim.checkpoint.formats import deformable_detr, real_time
from deim.checkpoint.formats.format import Format, Repeat, constant_rules
from deim.checkpoint.formats.resnet import torchvision_resnet, transformers_resnet
from deim.checkpoint.renaming import Rule, rename


def _attention(external: str, native: str) -> list[Rule]:
    """Return the rules of query, key and value projections, which are one tensor in native models."""
    parts = {kind: tuple(f"{external}.{projection}_proj.{kind}" for projection in "qkv") for kind in ("weight", "bias")}
    return [
        *(Rule(parts[kind], (f"{native}.in_proj_{kind}",)) for kind in ("weight", "bias")),
        rename(f"{external}.out_proj.*", f"{native}.out_proj.*"),
    ]


def _encoder_layers(external: str, native: str) -> list[Rule]:
    return [
        *_attention(f"{external}.self_attn", f"{native}.self_attn"),
        rename(f"{external}.self_attn_layer_norm.*", f"{native}.norm1.*"),
        rename(f"{external}.final_layer_norm.*", f"{native}.norm2.*"),
        rename(f"{external}.fc#.*", f"{native}.linear#.*"),
    ]


_DECODER_LAYERS: tuple[Rule, ...] = (
    *_attention("model.decoder.layers.#.self_attn", "decoder.layers.#.self_attn"),
    rename("model.decoder.layers.#.self_attn_layer_norm.*", "decoder.layers.#.norm1.*"),
    rename("model.decoder.layers.#.encoder_attn_layer_norm.*", "decoder.layers.#.norm2.*"),
    rename("model.decoder.layers.#.final_layer_norm.*", "decoder.layers.#.norm3.*"),
    rename("model.decoder.layers.#.encoder_attn.*", "decoder.layers.#.cross_attn.*"),
    rename("model.decoder.layers.#.fc#.*", "decoder.layers.#.linear#.*"),
)

_REAL_TIME: tuple[Rule, ...] = (
    *(
        rename(f"model.{part}_input_proj.#.{index}.*", f"{part}.input_proj.#.{name}.*")
        for part in ("encoder", "decoder")
        for index, name in enumerate(("conv", "norm"))
    ),
    *_encoder_layers("model.encoder.encoder.0.layers.#", "encoder.encoder.#"),
    *_DECODER_LAYERS,
    rename("model.denoising_class_embed.weight", "decoder.denoising.class_embedding.weight"),
    rename("model.enc_output.0.*", "decoder.queries.projection.*"),
    rename("model.enc_output.1.*", "decoder.queries.norm.*"),
    rename("model.enc_score_head.*", "decoder.queries.score_head.*"),
    rename("model.enc_bbox_head.*", "decoder.queries.bbox_head.*"),
    rename("model.decoder.query_pos_head.*", "decoder.position.mlp.*"),
    rename("model.decoder.class_embed.#.*", "decoder.refinement.score_heads.#.*"),
)

_HGNETV2: tuple[Rule, ...] = tuple(
    rename(f"model.backbone.model.{external}.*.{external_part}.*", f"backbone.{native}.*.{native_part}.*")
    for external, native in (("embedder", "stem"), ("encoder.stages.#", "stages.#"))
    for external_part, native_part in (("convolution", "conv"), ("normalization", "norm"), ("lab", "affine"))
)

_FUSION = [f"{kind}_blocks.#" for kind in ("fpn", "pan")]

_DFINE: tuple[Rule, ...] = (
    *_HGNETV2,
    *_REAL_TIME,
    rename("model.encoder.downsample_convs.#.conv#.*", "encoder.downsample_convs.#.cv#.*"),
    *(rename(f"model.encoder.{block}.conv{i}.*", f"encoder.{block}.cv{i}.*") for block in _FUSION for i in (1, 4)),
    *(rename(f"model.encoder.{block}.conv{i}.*", f"encoder.{block}.cv{i}.1.*") for block in _FUSION for i in (2, 3)),
    *(
        rename(f"model.encoder.{block}.csp_rep{i}.*", f"encoder.{block}.cv{i + 1}.0.*")
        for block in _FUSION
        for i in (1, 2)
    ),
    rename("model.encoder.lateral_convs.*", "encoder.lateral_convs.*"),
    rename("model.decoder.layers.#.gateway.*", "decoder.layers.#.gateway.*"),
    rename("model.decoder.up", "decoder.refinement.up"),
    rename("model.decoder.reg_scale", "decoder.refinement.reg_scale"),
    rename("model.decoder.lqe_layers.#.*", "decoder.refinement.quality_heads.#.*"),
    rename("model.decoder.bbox_embed.#.*", "decoder.refinement.corner_heads.#.*"),
    rename("model.decoder.pre_bbox_head.*", "decoder.refinement.initial_bbox_head.*"),
)

_STAGE = "model.backbone.model.encoder.stages"
_PRESNET: tuple[Rule, ...] = tuple(
    rename(f"{external}.{external_part}.*", f"backbone.{native}.{native_part}.*")
    for external, native in (
        *((f"model.backbone.model.embedder.embedder.{i}", f"conv1.conv1_{i + 1}") for i in range(3)),
        *((f"{_STAGE}.#.layers.#.layer.{i}", f"res_layers.#.blocks.#.branch2{name}") for i, name in enumerate("abc")),
        # The first stage has stride 1, so its shortcut has no pooling before the convolution.
        (f"{_STAGE}.0.layers.#.shortcut", "res_layers.0.blocks.#.short.conv"),
        (f"{_STAGE}.#.layers.#.shortcut.1", "res_layers.#.blocks.#.short.conv"),
    )
    for external_part, native_part in (("convolution", "conv"), ("normalization", "norm"))
)

_RTDETRV2: tuple[Rule, ...] = (
    *_PRESNET,
    *_REAL_TIME,
    *(rename(f"model.encoder.{part}.*", f"encoder.{part}.*") for part in ("lateral_convs", "downsample_convs")),
    *(rename(f"model.encoder.{block}.*", f"encoder.{block}.*") for block in _FUSION),
    rename("model.decoder.bbox_embed.#.*", "decoder.refinement.bbox_heads.#.*"),
)

_DEFORMABLE: tuple[Rule, ...] = (
    rename("model.input_proj.#.#.*", "encoder.input_proj.#.#.*"),
    rename("model.level_embed", "encoder.level_embedding"),
    rename("model.encoder.layers.#.self_attn_layer_norm.*", "encoder.layers.#.norm1.*"),
    rename("model.encoder.layers.#.final_layer_norm.*", "encoder.layers.#.norm2.*"),
    rename("model.encoder.layers.#.fc#.*", "encoder.layers.#.linear#.*"),
    rename("model.encoder.layers.#.self_attn.*", "encoder.layers.#.self_attn.*"),
    *_DECODER_LAYERS,
    *(rename(rule.external[0].replace("transformer.", "model."), rule.native[0]) for rule in deformable_detr.PROPOSALS),
    Rule(("model.query_position_embeddings.weight",), deformable_detr.QUERIES.native, dim=1),
)


def _deformable_rules(num_layers: int) -> Sequence[Rule]:
    resnet = transformers_resnet("model.backbone.conv_encoder.model.", "backbone.")
    return [*resnet, *_DEFORMABLE, *deformable_detr.head_rules(num_layers)]


def _deformable_timm_rules(num_layers: int) -> Sequence[Rule]:
    resnet = torchvision_resnet("model.backbone.conv_encoder.model.", "backbone.")
    return [*resnet, *_DEFORMABLE, *deformable_detr.head_rules(num_layers)]


def _dfine_constants(model: nn.Module, image_size: Sequence[int]) -> dict[str, Tensor]:
    return real_time.point_scales(model, "model.decoder.layers.#.encoder_attn.num_points_scale")


def _rtdetrv2_constants(model: nn.Module, image_size: Sequence[int]) -> dict[str, Tensor]:
    return real_time.point_scales(model, "model.decoder.layers.#.encoder_attn.n_points_scale")


def _never(model: nn.Module) -> bool:
    return False


# Some versions of transformers write these copies. All versions load files without them.
_COPIED_HEAD_TENSORS = tuple(
    Repeat(f"{head}.#.*", f"model.decoder.{head}.#.*", condition=_never) for head in ("class_embed", "bbox_embed")
)
# In Deformable DETR, by contrast, the decoder has box heads only with box refinement, and class heads only with two stages.
_DEFORMABLE_HEADS = tuple(
    Repeat(f"model.decoder.{head}.#.*", f"{head}.#.*", condition=condition, replaces_original=True)
    for head, condition in (
        ("bbox_embed", deformable_detr.has_box_refinement),
        ("class_embed", deformable_detr.is_two_stage),
    )
)

DFINE = Format(
    name="hf",
    title="transformers' D-FINE",
    systems=("dfine",),
    signature=("model.decoder.pre_bbox_head.*", "model.decoder.lqe_layers.#.*"),
    rules=constant_rules(*_DFINE),
    repeats=_COPIED_HEAD_TENSORS,
    constants=_dfine_constants,
    constant_names=("model.decoder.layers.#.encoder_attn.num_points_scale",),
)

RTDETRV2 = Format(
    name="hf",
    title="transformers' RT-DETRv2",
    systems=("rtdetrv2",),
    signature=("model.enc_score_head.*", "model.decoder.layers.#.encoder_attn.n_points_scale"),
    rules=constant_rules(*_RTDETRV2),
    repeats=_COPIED_HEAD_TENSORS,
    constants=_rtdetrv2_constants,
    constant_names=("model.decoder.layers.#.encoder_attn.n_points_scale",),
)

# RT-DETR has the same parts as RT-DETRv2, and predicts the same with the same weights. RT-DETRv2 also stores how many points
# its attention samples.
RTDETR = Format(
    name="hf",
    title="transformers' RT-DETR",
    systems=("rtdetrv2",),
    signature=("model.enc_score_head.*", "model.decoder.layers.#.encoder_attn.sampling_offsets.*"),
    rules=constant_rules(*_RTDETRV2),
    repeats=_COPIED_HEAD_TENSORS,
)

DEFORMABLE_DETR = Format(
    name="hf",
    title="transformers' Deformable DETR",
    systems=("deformable_detr",),
    signature=("model.level_embed", "model.backbone.conv_encoder.model.embedder.*"),
    rules=_deformable_rules,
    repeats=_DEFORMABLE_HEADS,
    store_shared_once=True,
)

DEFORMABLE_DETR_TIMM = Format(
    name="hf",
    title="transformers' Deformable DETR with timm's backbone",
    systems=("deformable_detr",),
    signature=("model.level_embed", "model.backbone.conv_encoder.model.layer#.*"),
    rules=_deformable_timm_rules,
    repeats=_DEFORMABLE_HEADS,
    store_shared_once=True,
)
