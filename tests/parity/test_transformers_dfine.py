"""The same weights give the same predictions as Hugging Face ``transformers``' D-FINE, in every size."""

import pytest
import torch
from torch import nn
from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

from deim.modeling.backbone.hgnetv2 import ARCHITECTURES
from tests.models import recipe
from tests.parity.transformers_weights import assert_equals_transformers

# Names there -> names here, applied in this order.
RENAMINGS = [
    (r"^model\.backbone\.model\.embedder\.", "backbone.stem."),
    (r"^model\.backbone\.model\.encoder\.", "backbone."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
    (r"\.lab\.", ".affine."),
    (r"^model\.encoder_input_proj\.(\d+)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"^model\.encoder_input_proj\.(\d+)\.1\.", r"encoder.input_proj.\1.norm."),
    (r"^model\.decoder_input_proj\.(\d+)\.(?:0|conv)\.", r"decoder.input_proj.\1.conv."),
    (r"^model\.decoder_input_proj\.(\d+)\.(?:1|norm)\.", r"decoder.input_proj.\1.norm."),
    (r"^model\.encoder\.aifi\.0\.layers\.", "encoder.encoder."),
    (r"encoder\.encoder\.(\d+)\.final_layer_norm", r"encoder.encoder.\1.norm2"),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.mlp\.layers\.0\.", ".linear1."),
    (r"\.mlp\.layers\.1\.", ".linear2."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"_blocks\.(\d+)\.conv([14])\.", r"_blocks.\1.cv\2."),
    (r"_blocks\.(\d+)\.conv2\.", r"_blocks.\1.cv2.1."),
    (r"_blocks\.(\d+)\.conv3\.", r"_blocks.\1.cv3.1."),
    (r"_blocks\.(\d+)\.csp_rep1\.", r"_blocks.\1.cv2.0."),
    (r"_blocks\.(\d+)\.csp_rep2\.", r"_blocks.\1.cv3.0."),
    (r"downsample_convs\.(\d+)\.conv([12])\.", r"downsample_convs.\1.cv\2."),
    (r"^model\.encoder\.", "encoder."),
    (r"^model\.denoising_class_embed\.", "decoder.denoising.class_embedding."),
    (r"^model\.enc_output\.0\.", "decoder.queries.projection."),
    (r"^model\.enc_output\.1\.", "decoder.queries.norm."),
    (r"^model\.enc_score_head\.", "decoder.queries.score_head."),
    (r"^model\.enc_bbox_head\.", "decoder.queries.bbox_head."),
    (r"^model\.decoder\.pre_bbox_head\.", "decoder.refinement.initial_bbox_head."),
    (r"^model\.decoder\.lqe_layers\.", "decoder.refinement.quality_heads."),
    (r"^model\.decoder\.class_embed\.", "decoder.refinement.score_heads."),
    (r"^model\.decoder\.bbox_embed\.", "decoder.refinement.corner_heads."),
    (r"^model\.decoder\.query_pos_head\.", "decoder.position.mlp."),
    (r"^model\.decoder\.(up|reg_scale)$", r"decoder.refinement.\1"),
    (r"^model\.decoder\.", "decoder."),
]


def their_model(model_config) -> nn.Module:
    """A randomly initialised model of ``transformers`` with the architecture of one of our configs."""
    backbone, encoder, decoder = model_config.backbone, model_config.encoder, model_config.decoder
    (middle, output), stages = ARCHITECTURES[backbone.name]
    levels = len(encoder.in_channels)
    theirs = HGNetV2Config(
        stem_channels=[3, middle, output],
        stage_in_channels=[output, *(s.out for s in stages[:-1])],
        stage_mid_channels=[s.mid for s in stages],
        stage_out_channels=[s.out for s in stages],
        stage_num_blocks=[s.blocks for s in stages],
        stage_numb_of_layers=[s.layers for s in stages],
        use_learnable_affine_block=backbone.learnable_affine,
        out_features=list(backbone.out_features),
        hidden_sizes=[s.out for s in stages],
        depths=[s.blocks for s in stages],
    )
    config = DFineConfig(
        backbone_config=theirs,
        num_labels=80,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=list(encoder.in_channels),
        feat_strides=[8, 16, 32][-levels:],
        encoder_hidden_dim=encoder.hidden_dim,
        encoder_ffn_dim=encoder.dim_feedforward,
        encode_proj_layers=[levels - 1],
        hidden_expansion=encoder.expansion,
        depth_mult=encoder.depth_multiplier,
        d_model=decoder.layer.dim,
        decoder_in_channels=list(decoder.input_proj.in_channels),
        decoder_ffn_dim=decoder.layer.dim_feedforward,
        decoder_layers=decoder.num_layers,
        decoder_n_points=list(decoder.layer.num_points),
        decoder_activation_function=decoder.layer.activation,
        activation_function="silu",
        num_feature_levels=levels,
        reg_scale=decoder.refinement.reg_scale,
        eval_idx=decoder.eval_layer,
        num_queries=decoder.queries.num_queries,
    )
    return DFineForObjectDetection(config).eval()


# transformers has one activation for all heads, so the comparison uses D-FINE's, a ReLU.
@pytest.mark.parametrize("size", ["n", "s", "m", "l", "x"])
@torch.no_grad()
def test_logits_and_boxes_equal_transformers(size: str) -> None:
    # Every token becomes a query: which of two tokens of equal score is the last to be selected
    # would depend on rounding.
    height, width = 128, 160
    tokens = sum(height // stride * width // stride for stride in ((16, 32) if size == "n" else (8, 16, 32)))
    config = recipe(
        f"dfine_{size}_coco", "model.backbone.freeze_norm=False", f"model.decoder.queries.num_queries={tokens}"
    ).model
    torch.manual_seed(0)
    assert_equals_transformers(config, their_model(config), RENAMINGS, (height, width))
