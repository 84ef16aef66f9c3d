"""Predictions, losses and gradients agree with Deformable DETR of Hugging Face ``transformers`` with the same weights,
for batches of images of different sizes."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch import nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from deim.checkpoint import load_for_inference, read_weights
from deim.checkpoint.reading import StoredWeights
from deim.conversion.conversion import to_layout, write_hugging_face
from deim.conversion.identification import IdentifiedCheckpoint
from tests.models import randomize, recipe
from tests.parity.transformers_weights import (
    assert_same_predictions,
    padded_batch,
    resnet_config,
    resnet_renamings,
    translated,
)

RECIPES = ["r50", "r50_refine", "r50_two_stage", "r50_single_scale"]
SMALL = (
    "model.backbone.depth=18",
    "model.num_classes=6",
    "model.encoder.dim=64",
    "model.encoder.num_layers=2",
    "model.encoder.dim_feedforward=96",
    "model.encoder.dropout=0",
    "model.decoder.num_layers=3",
    "model.decoder.queries.num_queries=20",
)


def small(name: str):
    return recipe(f"deformable_detr_{name}_50ep_coco", *SMALL).model


def their_model(config) -> nn.Module:
    queries, refinement = config.decoder.queries, config.decoder.refinement
    model = DeformableDetrForObjectDetection(
        DeformableDetrConfig(
            backbone_config=resnet_config(config),
            num_labels=config.num_classes,
            d_model=config.encoder.dim,
            num_feature_levels=config.encoder.num_levels,
            num_queries=queries.num_queries,
            two_stage="RegionProposals" in str(queries._target_),
            two_stage_num_proposals=queries.num_queries,
            with_box_refine="IterativeRefinement" in str(refinement._target_),
            encoder_layers=config.encoder.num_layers,
            decoder_layers=config.decoder.num_layers,
            encoder_ffn_dim=config.encoder.dim_feedforward,
            decoder_ffn_dim=config.encoder.dim_feedforward,
            dropout=0.0,
            auxiliary_loss=True,
            class_cost=2,
        )
    )
    if "IterativeRefinement" in str(refinement._target_):
        # transformers shares one class head among all layers; the paper has a head for each layer.
        model.class_embed, model.bbox_embed = (
            nn.ModuleList(copy.deepcopy(head) for head in heads) for heads in (model.class_embed, model.bbox_embed)
        )
        model.model.decoder.bbox_embed = model.bbox_embed
        if model.config.two_stage:
            model.model.decoder.class_embed = model.class_embed
    # transformers freezes native backbones completely, since it expects "stage." in their parameter names.
    return model.requires_grad_(True)


def renamings(config) -> list[tuple[str, str]]:
    """Return (pattern in transformers, name in this project), applied in this order."""
    layers = config.decoder.num_layers
    return [
        (r"^(class|bbox)_embed\.", r"model.decoder.\1_embed."),
        *resnet_renamings(r"model\.backbone\.model\."),
        (r"^model\.input_proj\.", "encoder.input_proj."),
        (r"^model\.level_embed$", "encoder.level_embedding"),
        (rf"^model\.decoder\.class_embed\.{layers}\.", "decoder.queries.score_head."),
        (rf"^model\.decoder\.bbox_embed\.{layers}\.", "decoder.queries.bbox_head."),
        (r"^model\.decoder\.class_embed\.", "decoder.refinement.score_heads."),
        (r"^model\.decoder\.bbox_embed\.", "decoder.refinement.bbox_heads."),
        (r"^model\.enc_output\.", "decoder.queries.projection."),
        (r"^model\.enc_output_norm\.", "decoder.queries.norm."),
        (r"^model\.pos_trans\.", "decoder.queries.box_projection."),
        (r"^model\.pos_trans_norm\.", "decoder.queries.box_norm."),
        (r"^model\.reference_points\.", "decoder.queries.reference_points."),
        (r"^model\.(encoder|decoder)\.layers\.", r"\1.layers."),
        (r"\.self_attn_layer_norm\.", ".norm1."),
        (r"\.encoder_attn_layer_norm\.", ".norm2."),
        (r"^encoder(.*)\.final_layer_norm\.", r"encoder\1.norm2."),
        (r"\.final_layer_norm\.", ".norm3."),
        (r"\.mlp\.fc([12])\.", r".linear\1."),
        (r"\.encoder_attn\.", ".cross_attn."),
    ]


def our_weights(theirs: nn.Module, config) -> dict[str, torch.Tensor]:
    state = {re.sub(r"^(class|bbox)_embed\.", r"model.decoder.\1_embed.", k): v for k, v in theirs.state_dict().items()}
    joined = state.pop("model.query_position_embeddings.weight", None)
    weights = translated(state, renamings(config))
    if joined is not None:
        # position in the first half, content in the second
        position, content = joined.chunk(2, dim=1)
        weights |= {"decoder.queries.position.weight": position, "decoder.queries.content.weight": content}
    return weights


def both_models(name: str) -> tuple[nn.Module, nn.Module, object]:
    torch.manual_seed(0)
    config = small(name)
    theirs = randomize(their_model(config), scale=0.02)
    ours = instantiate(config)
    incompatible = ours.load_state_dict(our_weights(theirs, config), strict=False)
    assert not incompatible.unexpected_keys
    assert not incompatible.missing_keys
    return ours, theirs, config


@pytest.mark.parametrize("name", RECIPES)
@torch.no_grad()
def test_predictions_equal_transformers(name: str) -> None:
    ours, theirs, config = both_models(name)
    ours, theirs = ours.eval(), theirs.eval()
    samples, pixels, mask, _ = padded_batch(config)
    expected = theirs(pixel_values=pixels, pixel_mask=mask)
    assert expected.logits.std() > 0.1, "the comparison must not be of constants"
    images, padding = ours._batch([sample["image"] for sample in samples])
    groups, _ = ours.decoder(ours.encoder(ours.backbone(images.tensor), padding))
    assert_same_predictions(groups["main"], expected.logits, expected.pred_boxes)


@pytest.mark.parametrize("name", RECIPES)
def test_losses_and_gradients_equal_transformers(name: str) -> None:
    ours, theirs, config = both_models(name)
    ours.criterion.losses["loss_focal"].weight = 1.0  # as in transformers
    # transformers does not compute the loss of the proposals.
    ours.criterion.supervision = [group for group in ours.criterion.supervision if group.group != "encoder"]
    samples, pixels, mask, labels = padded_batch(config)
    expected = theirs(pixel_values=pixels, pixel_mask=mask, labels=labels)
    losses = ours(samples)
    layers = config.decoder.num_layers
    names = {"ce": "focal", "bbox": "bbox", "giou": "giou"}
    scales = {"ce": 1, "bbox": 5, "giou": 2}
    suffixes = {"": "", **{f"_{i}": f"_aux_{i}" for i in range(layers - 1)}}
    for theirs_suffix, ours_suffix in suffixes.items():
        for kind, ours_kind in names.items():
            expected_value = expected.loss_dict[f"loss_{kind}{theirs_suffix}"] * scales[kind]
            torch.testing.assert_close(losses[f"loss_{ours_kind}{ours_suffix}"], expected_value, rtol=1e-6, atol=1e-9)

    total = sum(losses.values())
    torch.testing.assert_close(total, expected.loss, rtol=1e-6, atol=0)
    total.backward()
    expected.loss.backward()
    for parameter in theirs.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    expected_value = our_weights(theirs, config)
    for parameter_name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            actual = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            expected_gradient = expected_value[parameter_name]
            tolerance = 1e-8 + 1e-6 * float(expected_gradient.abs().max())
            torch.testing.assert_close(actual, expected_gradient, rtol=0, atol=tolerance, msg=parameter_name)


@pytest.mark.parametrize("name", RECIPES)
@torch.no_grad()
def test_exported_transformers_folder_predicts_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = recipe(f"deformable_detr_{name}_50ep_coco", *SMALL)
    ours = randomize(instantiate(config.model), scale=0.02).eval()
    weights = ours.state_dict()
    identified = IdentifiedCheckpoint(
        StoredWeights("ours", weights), None, config.train.recipe, config, ours, weights, None, []
    )
    write_hugging_face(identified, tmp_path)
    theirs, report = DeformableDetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    samples, pixels, mask, _ = padded_batch(config.model)
    expected = theirs.eval()(pixel_values=pixels, pixel_mask=mask)
    images, padding = ours._batch([sample["image"] for sample in samples])
    groups, _ = ours.decoder(ours.encoder(ours.backbone(images.tensor), padding))
    assert_same_predictions(groups["main"], expected.logits, expected.pred_boxes)

    stored = read_weights(str(tmp_path))
    loaded = instantiate(config.model)
    load_for_inference(loaded, str(tmp_path))
    assert all(torch.equal(value, weights[key]) for key, value in loaded.state_dict().items())
    restored = to_layout(replace(identified, weights=loaded.state_dict()), "hf")
    assert restored.keys() == stored.weights.keys()
    assert all(torch.equal(restored[key], value) for key, value in stored.weights.items())
