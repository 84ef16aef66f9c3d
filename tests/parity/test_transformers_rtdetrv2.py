"""The same weights give the same predictions as Hugging Face ``transformers``' RT-DETRv2, in every size."""

import pytest
import torch
from torch import nn
from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

from deim.modeling.backbone.presnet import DEPTHS, WIDTHS
from tests.models import recipe
from tests.parity.transformers_weights import assert_equals_transformers

# Names there -> names here, applied in this order.
RENAMINGS = [
    *((rf"^model\.backbone\.model\.embedder\.embedder\.{i}\.", f"backbone.conv1.conv1_{i + 1}.") for i in range(3)),
    (r"^model\.backbone\.model\.encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"backbone.res_layers.\1.blocks.\2."),
    (r"\.shortcut\.(?:1\.)?", ".short.conv."),
    *((rf"(\.blocks\.\d+)\.layer\.{i}\.", rf"\1.branch2{'abc'[i]}.") for i in range(3)),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
    (r"^model\.(en|de)coder_input_proj\.(\d+)\.0\.", r"\1coder.input_proj.\2.conv."),
    (r"^model\.(en|de)coder_input_proj\.(\d+)\.1\.", r"\1coder.input_proj.\2.norm."),
    (r"^model\.encoder\.aifi\.0\.layers\.", "encoder.encoder."),
    (r"encoder\.encoder\.(\d+)\.final_layer_norm", r"encoder.encoder.\1.norm2"),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"^model\.encoder\.", "encoder."),
    (r"^model\.denoising_class_embed\.", "decoder.denoising.class_embedding."),
    (r"^model\.enc_output\.0\.", "decoder.queries.projection."),
    (r"^model\.enc_output\.1\.", "decoder.queries.norm."),
    (r"^model\.enc_score_head\.", "decoder.queries.score_head."),
    (r"^model\.enc_bbox_head\.", "decoder.queries.bbox_head."),
    (r"^model\.decoder\.class_embed\.", "decoder.refinement.score_heads."),
    (r"^model\.decoder\.bbox_embed\.", "decoder.refinement.bbox_heads."),
    (r"^model\.decoder\.query_pos_head\.", "decoder.position.mlp."),
    (r"^model\.decoder\.", "decoder."),
]


def their_model(model_config) -> nn.Module:
    """A randomly initialised model of ``transformers`` with the architecture of one of our configs."""
    depth, encoder, decoder = model_config.backbone.depth, model_config.encoder, model_config.decoder
    deep = depth >= 50
    backbone = RTDetrResNetConfig(
        embedding_size=64,
        hidden_sizes=[width * (4 if deep else 1) for width in WIDTHS],
        depths=list(DEPTHS[depth]),
        layer_type="bottleneck" if deep else "basic",
        downsample_in_first_stage=False,
        downsample_in_bottleneck=False,
        out_features=list(model_config.backbone.out_features),
    )
    config = RTDetrV2Config(
        backbone_config=backbone,
        num_labels=80,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=list(encoder.in_channels),
        encoder_hidden_dim=encoder.hidden_dim,
        encoder_ffn_dim=encoder.dim_feedforward,
        hidden_expansion=encoder.expansion,
        d_model=decoder.layer.dim,
        decoder_in_channels=list(decoder.input_proj.in_channels),
        decoder_ffn_dim=decoder.layer.dim_feedforward,
        decoder_layers=decoder.num_layers,
        decoder_n_points=decoder.layer.num_points[0],
        decoder_activation_function=decoder.layer.activation,
        decoder_method={"bilinear": "default", "nearest": "discrete"}[decoder.layer.sampling],
        num_queries=decoder.queries.num_queries,
    )
    return RTDetrV2ForObjectDetection(config).eval()


SIZES = ["r18vd_120e", "r34vd_120e", "r50vd_m_7x", "r50vd_6x", "r101vd_6x"]


# transformers evaluates the last layer, whichever was meant to be.
@pytest.mark.parametrize(("size", "sampling"), [*((size, "bilinear") for size in SIZES), ("r18vd_120e", "nearest")])
@torch.no_grad()
def test_logits_and_boxes_equal_transformers(size: str, sampling: str) -> None:
    # Every token becomes a query: which of two tokens of equal score is the last to be selected
    # would depend on rounding. Square, as their discrete sampling takes one side for both.
    side = 128
    tokens = sum((side // stride) ** 2 for stride in (8, 16, 32))
    config = recipe(
        f"rtdetrv2_{size}_coco",
        "model.backbone.freeze_norm=False",
        "model.decoder.eval_layer=-1",
        f"model.decoder.queries.num_queries={tokens}",
        f"model.decoder.layer.sampling={sampling}",
    ).model
    torch.manual_seed(0)
    assert_equals_transformers(config, their_model(config), RENAMINGS, (side, side))
