"""DN-DETR without denoising queries agrees with DAB-DETR of Hugging Face ``transformers`` with the same weights, for
batches of images of different sizes."""

import torch
from detectron2.config import instantiate
from torch import nn
from transformers import DabDetrConfig, DabDetrForObjectDetection

from tests.models import randomize, recipe
from tests.parity.transformers_weights import (
    assert_same_predictions,
    padded_batch,
    resnet_config,
    resnet_renamings,
    translated,
)

SMALL = (
    "model.backbone.depth=18",
    "model.num_classes=6",
    "model.encoder.dim=64",
    "model.encoder.num_layers=2",
    "model.encoder.dim_feedforward=96",
    "model.decoder.num_layers=3",
    "model.decoder.queries.num_queries=20",
    # the value of transformers; the authors' code has 1e-3
    "model.decoder.refinement.logit_eps=1e-5",
)

# (pattern in transformers, name in this project), applied in this order.
RENAMINGS = [
    *resnet_renamings(r"model\.backbone\.conv_encoder\.model\."),
    (r"^model\.query_refpoint_embeddings\.", "decoder.queries.anchors."),
    (r"^model\.input_projection\.", "encoder.input_proj."),
    (r"^model\.encoder\.query_scale\.", "encoder.position_scale."),
    (r"^model\.decoder\.query_scale\.", "decoder.position.scale_mlp."),
    (r"^model\.decoder\.ref_point_head\.", "decoder.position.box_mlp."),
    (r"^model\.decoder\.ref_anchor_head\.", "decoder.position.size_mlp."),
    (r"^model\.decoder\.layernorm\.", "decoder.refinement.norm."),
    (r"^model\.encoder\.(.*)\.self_attn_layer_norm\.", r"encoder.\1.norm1."),
    (r"^model\.encoder\.(.*)\.final_layer_norm\.", r"encoder.\1.norm2."),
    (r"\.self_attn\.self_attn_layer_norm\.", ".norm1."),
    (r"\.cross_attn\.cross_attn_layer_norm\.", ".norm2."),
    (r"\.mlp\.final_layer_norm\.", ".norm3."),
    (r"(self|cross)_attn\.\1_attn\.output_proj\.", r"\1_attn.output_proj."),
    (r"attn_query_pos_sine_proj\.", "attn_query_sine."),
    (r"(self|cross)_attn\.\1_attn_(query|key)_pos_proj\.", r"\1_attn.\2_position."),
    (r"(self|cross)_attn\.\1_attn_(query|key)_content_proj\.", r"\1_attn.\2_content."),
    (r"(self|cross)_attn\.\1_attn_(value_proj|query_sine)\.", r"\1_attn.\2."),
    (r"\.mlp\.", "."),
    (r"\.fc([12])\.", r".linear\1."),
    (r"\.activation_fn\.", ".activation."),
    (r"^model\.", ""),
]


def their_model(config) -> nn.Module:
    return DabDetrForObjectDetection(
        DabDetrConfig(
            backbone_config=resnet_config(config),
            num_labels=config.num_classes,
            hidden_size=config.encoder.dim,
            num_queries=config.decoder.queries.num_queries,
            encoder_layers=config.encoder.num_layers,
            decoder_layers=config.decoder.num_layers,
            encoder_ffn_dim=config.encoder.dim_feedforward,
            decoder_ffn_dim=config.encoder.dim_feedforward,
        )
    ).eval()


@torch.no_grad()
def test_predictions_equal_transformers() -> None:
    torch.manual_seed(0)
    config = recipe("dn_detr_r50_50ep_coco", *SMALL).model
    theirs, ours = randomize(their_model(config), scale=0.02), instantiate(config).eval()
    state = theirs.state_dict()
    weights = translated(state, RENAMINGS)
    for layer in range(config.decoder.num_layers):
        for name in ("weight", "bias"):
            weights[f"decoder.refinement.score_heads.{layer}.{name}"] = state[f"class_embed.{name}"]
        for name in [n for n in state if n.startswith("bbox_predictor.")]:
            weights[f"decoder.refinement.bbox_heads.{layer}.{name.removeprefix('bbox_predictor.')}"] = state[name]
    # In transformers, the content of the queries starts as zeros. Here, its last channel is reserved for the denoising
    # indicator and not a parameter.
    weights["decoder.queries.content.weight"] = torch.zeros(1, config.encoder.dim - 1)
    incompatible = ours.load_state_dict(weights, strict=False)
    assert incompatible.missing_keys == ["decoder.denoising.class_embedding.weight"]
    assert [name for name in incompatible.unexpected_keys if "bbox_embed" not in name] == []

    samples, pixels, mask, _ = padded_batch(config)
    expected = theirs(pixel_values=pixels, pixel_mask=mask)
    assert expected.logits.std() > 0.1, "the comparison must not be of constants"
    images, padding = ours._batch([sample["image"] for sample in samples])
    groups, _ = ours.decoder(ours.encoder(ours.backbone(images.tensor), padding))
    assert_same_predictions(groups["main"], expected.logits, expected.pred_boxes)
