"""Renaming rules and buffers that the official layouts of D-FINE, DEIM, DEIMv2 and RT-DETRv2 have in common."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deim.checkpoint.renaming import Rule, rename

HYBRID_ENCODER: tuple[Rule, ...] = (
    rename("encoder.encoder.0.layers.#.*", "encoder.encoder.#.*"),
    # Re-parameterized convolutions in deployment form.
    rename("encoder.*.bottlenecks.#.conv.*", "encoder.*.bottlenecks.#.fused.*"),
    rename("encoder.downsample_convs.#.0.*.conv_bn_fused.*", "encoder.downsample_convs.#.*.fused.*"),
    rename("encoder.*.conv_bn_fused.*", "encoder.*.fused.*"),
)

DECODER: tuple[Rule, ...] = (
    rename("decoder.decoder.layers.#.*", "decoder.layers.#.*"),
    rename("decoder.input_proj.*", "decoder.input_proj.*"),
    rename("decoder.denoising_class_embed.*", "decoder.denoising.class_embedding.*"),
    rename("decoder.query_pos_head.*", "decoder.position.mlp.*"),
    rename("decoder.enc_output.proj.*", "decoder.queries.projection.*"),
    rename("decoder.enc_output.norm.*", "decoder.queries.norm.*"),
    rename("decoder.enc_score_head.*", "decoder.queries.score_head.*"),
    rename("decoder.enc_bbox_head.*", "decoder.queries.bbox_head.*"),
    rename("decoder.dec_score_head.#.*", "decoder.refinement.score_heads.#.*"),
)


def point_scales(model: Any, template: str) -> dict[str, Tensor]:
    """Return a tensor for each decoder layer: for each sampling point, 1 / (number of points on its level).

    Args:
        model: detector.
        template: name of the tensor, with ``#`` for the number of the layer.
    """
    scales = {}
    for index, layer in enumerate(model.decoder.layers):
        values = [1 / n for n in layer.cross_attn.num_points for _ in range(n)]
        scales[template.replace("#", str(index))] = torch.tensor(values, dtype=torch.float32)
    return scales


def anchors(model: Any, image_size: Sequence[int]) -> dict[str, Tensor]:
    """Return the anchors of all tokens of an image of this (height, width), and the mask of valid anchors."""
    strides = sorted(model.backbone._out_feature_strides[name] for name in model.backbone._out_features)
    # The lite encoder of DEIMv2 adds a map at twice the stride.
    while len(strides) < model.decoder.layers[0].num_levels:
        strides.append(2 * strides[-1])
    shapes = tuple((image_size[0] // stride, image_size[1] // stride) for stride in strides)
    values, valid = model.decoder.queries.anchors(shapes)
    return {"decoder.anchors": values.clone(), "decoder.valid_mask": valid.clone()}


def constants(model: Any, image_size: Sequence[int]) -> dict[str, Tensor]:
    """Return the buffers that the official code stores beside the weights."""
    return anchors(model, image_size) | point_scales(model, "decoder.decoder.layers.#.cross_attn.num_points_scale")


CONSTANT_NAMES = ("decoder.anchors", "decoder.valid_mask", "decoder.decoder.layers.#.cross_attn.num_points_scale")
