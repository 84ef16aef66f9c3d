"""Decoders composed of exchangeable parts."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, instantiate
from detrex.layers import box_xyxy_to_cxcywh
from torch import nn

from deim.checkpoint.former_names import current_name
from deim.checkpoint.loading import load_weights, resume
from deim.config import with_fdr, with_learned_queries
from deim.errors import CheckpointError
from deim.inference import to_deployment
from deim.layers import MLP, SwiGLU
from deim.modeling.decoder import (
    BoxPosition,
    ClampedAddNormDecoderLayer,
    DistributionRefinement,
    FixedBoxes,
    IterativeRefinement,
    MapProjection,
    NormalizedRefinement,
)
from deim.modeling.decoder.layer import GatedDecoderLayer
from deim.modeling.queries import LearnedQueries
from deim.structures.memory import Memory
from deim.structures.predictions import Targets
from tests.models import FAMILIES, REAL_TIME, batch, randomize, recipe, tiny_model


def without_refinement(model):
    refinement = dict(model.decoder.refinement)
    options = {name: refinement[name] for name in ("dim", "num_classes", "num_layers", "activation")}
    model.decoder.refinement = LazyCall(FixedBoxes)(**options)
    return model


def with_rms_norm_and_swiglu(model):
    dim = model.decoder.layer.dim
    model.decoder.layer.norm = LazyCall(nn.RMSNorm)(normalized_shape=dim, eps=1e-6)
    model.decoder.layer.dim_feedforward = None
    model.decoder.layer.feedforward = LazyCall(SwiGLU)(dim=dim, hidden_dim=12)
    return model


CHANGES = {
    "FDR on RT-DETR": ("rtdetr", with_fdr),
    "RT-DETR with learned queries": ("rtdetr", with_learned_queries),
    "D-FINE with learned queries": ("dfine", with_learned_queries),
    "RT-DETR without refinement": ("rtdetr", without_refinement),
    "RMSNorm and SwiGLU in D-FINE": ("dfine", with_rms_norm_and_swiglu),
    "RMSNorm and SwiGLU in RT-DETR": ("rtdetr", with_rms_norm_and_swiglu),
    "FDR and learned queries on RT-DETR": ("rtdetr", lambda model: with_fdr(with_learned_queries(model))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_decoder_parts_can_be_exchanged_in_the_config(change: str) -> None:
    """The model with the exchanged part trains all parameters, predicts, and converts to deployment form."""
    family, apply = CHANGES[change]
    torch.manual_seed(0)
    model = instantiate(apply(recipe(FAMILIES[family], "model.decoder.num_layers=3").model))
    losses = model(batch([2, 0, 3]))
    assert ("loss_fgl_aux_0" in losses) == (family == "dfine" or "FDR" in change)
    assert ("loss_mal_enc_0" in losses) == ("learned" not in change)
    assert "loss_bbox_dn_0" in losses
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model = randomize(model).eval()
    deployed = to_deployment(model)
    with torch.no_grad():
        expected, actual = (m(batch([1]))[0]["instances"] for m in (model, deployed))
    torch.testing.assert_close(actual.scores, expected.scores, atol=1e-4, rtol=1e-3)


REFINEMENTS = {
    "fixed": lambda **options: FixedBoxes(8, 3, 2, **options),
    "iterative": lambda **options: IterativeRefinement(8, 3, 2, **options),
    "distributions": lambda **options: DistributionRefinement(8, 3, 2, **options),
}


@pytest.mark.parametrize("kind", REFINEMENTS)
def test_initial_boxes_equal_references_and_scores_equal_the_prior(kind: str) -> None:
    """Box heads are initialized to zero, and class heads with the bias of RetinaNet's prior."""
    torch.manual_seed(0)
    refinement = REFINEMENTS[kind](activation="silu").train()
    references, queries = torch.rand(2, 5, 4) * 0.4 + 0.2, torch.zeros(2, 5, 8)
    state = refinement.initial_state(references)
    for index in range(2):
        # other queries than zero do not move boxes either
        state, predicted = refinement(index, torch.randn(2, 5, 8), state, predict=True)
        for actual in predicted.values():
            torch.testing.assert_close(actual.boxes[0], references, atol=1e-5, rtol=0)
    _, predicted = refinement(0, queries, refinement.initial_state(references), predict=True)
    for actual in predicted.values():
        torch.testing.assert_close(actual.logits.sigmoid(), torch.full_like(actual.logits, 0.01))
    heads = [module for module in refinement.modules() if isinstance(module, MLP)]
    assert heads
    assert all(isinstance(head.activation, nn.SiLU) for head in heads)
    sum(actual.boxes.sum() for actual in predicted.values()).backward()
    fixed = {name for name, parameter in refinement.named_parameters() if not parameter.requires_grad}
    assert fixed == ({"up", "reg_scale"} if kind == "distributions" else set())


def test_initial_predictions_use_the_first_class_head() -> None:
    torch.manual_seed(0)
    refinement = randomize(DistributionRefinement(8, 3, 2), 0.4).train()
    queries = torch.randn(1, 5, 8)
    _, predicted = refinement(0, queries, refinement.initial_state(torch.rand(1, 5, 4) * 0.4 + 0.2), predict=True)
    torch.testing.assert_close(predicted["initial"].logits[0], refinement.score_heads[0](queries))


@pytest.mark.parametrize("kind", [GatedDecoderLayer, ClampedAddNormDecoderLayer])
@pytest.mark.parametrize("sign", [-1, 1])
def test_layers_clamp_to_the_float16_range(kind: type, sign: int) -> None:
    layer = kind(8, 2, 16, [2])
    queries = torch.randn(1, 3, 8)
    queries[0, 1, 2] = sign * 1e9
    clamped = queries.clone()
    clamped[0, 1, 2] = sign * 65504.0
    torch.testing.assert_close(layer.normalize(queries), layer.normalize(clamped), rtol=0, atol=0)


def test_learned_queries_are_the_same_for_every_image() -> None:
    torch.manual_seed(0)
    queries = LearnedQueries(8, 5)(Memory(torch.randn(3, 40, 8), [(4, 8), (2, 4)]))
    assert queries.content.shape == (3, 5, 8)
    assert torch.equal(queries.content[0], queries.content[2])
    boxes = queries.references.sigmoid()
    assert torch.equal(boxes[0], boxes[1])
    assert (boxes[..., 2:] == 0.5).all()
    assert boxes[0, :, 0].std() > 0.1
    assert queries.references.requires_grad
    assert queries.groups == {}


def test_fixed_boxes_refine_the_initial_references() -> None:
    torch.manual_seed(0)
    refinement = randomize(FixedBoxes(8, 3, num_layers=2), 0.5)
    references = torch.rand(1, 4, 4) * 0.4 + 0.3
    state = refinement.initial_state(references)
    queries = torch.randn(1, 4, 8)
    for index in range(2):
        state, predicted = refinement(index, queries, state, predict=True)
        correction = refinement.bbox_heads[index](queries)
        torch.testing.assert_close(predicted["main"].boxes[0], (correction + references.logit()).sigmoid())
    assert torch.equal(state.references, references)


@pytest.mark.parametrize("twice", [True, False])
def test_look_forward_twice_passes_gradients_to_the_previous_head(twice: bool) -> None:
    torch.manual_seed(0)
    refinement = randomize(IterativeRefinement(8, 3, num_layers=2, look_forward_twice=twice), 0.5)
    queries = torch.randn(1, 4, 8)
    state = refinement.initial_state(torch.rand(1, 4, 4) * 0.4 + 0.3)
    for index in range(2):
        state, predicted = refinement(index, queries, state, predict=True)
    predicted["main"].boxes.sum().backward()
    reached = refinement.bbox_heads[0].layers[-1].weight.grad
    assert (reached is not None and bool(reached.abs().sum() > 0)) == twice


def test_decoder_layers_are_initialized_equally_and_trained_separately() -> None:
    layers = tiny_model().decoder.layers
    first, last = layers[0].linear1.weight, layers[-1].linear1.weight
    assert torch.equal(first, last)
    assert first is not last


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.decoder.eval_layer=3", "eval_layer 3 is out of range for 3 layers"),
        ("model.decoder.eval_layer=-4", "eval_layer -4 is out of range for 3 layers"),
        (
            "model.decoder.layer.num_points=[4,4,4]",
            r"layer attends to 3 maps \(.*\), but input_proj.in_channels has 2 entries",
        ),
        ("model.decoder.refinement.num_layers=2", "refinement is made for 2 layers, num_layers is 3"),
    ],
)
def test_incompatible_decoder_parts_are_rejected(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(override)


# name before decoders were put together from parts -> name now
FORMER = {
    "decoder.selection.projection.weight": "decoder.queries.projection.weight",
    "decoder.query_pos_head.layers.0.bias": "decoder.position.mlp.layers.0.bias",
    "decoder.score_heads.1.weight": "decoder.refinement.score_heads.1.weight",
    "decoder.corner_heads.0.layers.2.bias": "decoder.refinement.corner_heads.0.layers.2.bias",
    "decoder.quality_heads.0.reg_conf.layers.0.bias": "decoder.refinement.quality_heads.0.reg_conf.layers.0.bias",
    "decoder.initial_bbox_head.layers.0.bias": "decoder.refinement.initial_bbox_head.layers.0.bias",
    "decoder.up": "decoder.refinement.up",
    "decoder.reg_scale": "decoder.refinement.reg_scale",
}


def test_checkpoints_of_earlier_versions_are_loaded(tmp_path: Path) -> None:
    model = tiny_model(seed=1)
    present = {now: before for before, now in FORMER.items()}
    state = model.state_dict()
    assert set(present) <= set(state)
    assert all(current_name(before) == now for before, now in FORMER.items())
    assert all(current_name(name) == name for name in state)
    path = str(tmp_path / "former.pth")
    torch.save({"model": {present.get(name, name): value for name, value in state.items()}}, path)
    other = tiny_model(seed=2)
    load_weights(other, path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())


def test_runs_of_earlier_versions_are_not_resumed(tmp_path: Path) -> None:
    """Parameters have another order now, so the optimizer state would be assigned to wrong parameters."""
    model, path = tiny_model(), str(tmp_path / "former.pth")
    torch.save({"model": {"decoder.up": torch.zeros(1)}}, path)

    with pytest.raises(CheckpointError, match=r"earlier version of deim .*train\.init_checkpoint="):
        resume(DetectionCheckpointer(model), model, path)


# BoxPosition does not use the memory.
UNUSED_MEMORY = Memory(torch.zeros(1, 1, 8), [(1, 1)])


@pytest.mark.parametrize(("num_layers", "widths"), [(2, [16, 8]), (3, [8, 8, 8])])
def test_box_position_layer_widths(num_layers: int, widths: list[int]) -> None:
    """The first two layers have RT-DETR's Xavier initialization, a third layer has torch's default."""
    torch.manual_seed(0)
    position = BoxPosition(8, num_layers, activation="silu")
    layers = [layer for layer in position.mlp.layers if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == widths
    usual = [layer.weight.abs().max() <= layer.in_features**-0.5 for layer in layers]
    assert usual[1:] == [False, True][: num_layers - 1]
    boxes = torch.rand(2, 5, 4)
    expected_value = layers[0](boxes)
    for layer in layers[1:]:
        expected_value = layer(nn.functional.silu(expected_value))
    torch.testing.assert_close(position(0, torch.zeros(2, 5, 8), boxes, UNUSED_MEMORY).embedding, expected_value)


def test_box_position_is_clipped_to_the_limit() -> None:
    torch.manual_seed(0)
    free, bounded = BoxPosition(8), BoxPosition(8, limit=0.1)
    bounded.load_state_dict(free.state_dict())
    inputs = 0, torch.zeros(1, 50, 8), torch.rand(1, 50, 4), UNUSED_MEMORY
    embedded = free(*inputs).embedding
    assert embedded.min() < -0.1 < 0.1 < embedded.max()
    torch.testing.assert_close(bounded(*inputs).embedding, embedded.clamp(-0.1, 0.1))


@pytest.mark.parametrize("kind", [FixedBoxes, IterativeRefinement, NormalizedRefinement])
def test_references_are_clipped_by_logit_eps(kind: type[FixedBoxes]) -> None:
    refinement = kind(8, 3, 2, logit_eps=0.01)
    state = refinement.initial_state(torch.tensor([[[0.0, 1.0, 0.5, 1.0]]]))
    next_state, predicted = refinement(0, torch.randn(1, 1, 8), state, predict=True)
    min_coordinate = 0.01 / 1.01  # sigmoid(log(0.01 / 1)): the logit of 0 is log(logit_eps / 1)
    expected_value = torch.tensor([min_coordinate, 1 - min_coordinate, 0.5, 1 - min_coordinate])
    torch.testing.assert_close(predicted["main"].boxes.flatten(), expected_value)
    if kind is not FixedBoxes:
        torch.testing.assert_close(next_state.references.flatten(), expected_value)
    assert refinement(0, torch.randn(1, 1, 8), state, predict=False)[1] == {}


@pytest.mark.parametrize("skip_equal", [False, True])
def test_map_projection_skips_maps_of_equal_width_only_for_dfine(skip_equal: bool) -> None:
    torch.manual_seed(0)
    first, second = MapProjection([96, 32], 32, skip_equal=skip_equal)
    assert isinstance(second, nn.Identity) == skip_equal
    xavier, usual = (6 / 128) ** 0.5, 96**-0.5
    assert usual < first.conv.weight.abs().max() <= xavier


def test_refinement_defaults() -> None:
    """Defaults are DINO's look forward twice, and D-FINE's weighting function (section 4.1)."""
    assert IterativeRefinement(8, 3, 2).look_forward_twice
    refinement = DistributionRefinement(8, 3, 2)
    assert (refinement.reg_max, refinement.up.item(), refinement.reg_scale.item()) == (32, 0.5, 4.0)


def decoder_inputs(
    family: str, size: int = 64, overrides: Sequence[str] = ()
) -> tuple[nn.Module, object, Targets, torch.Tensor]:
    """Return a randomized decoder in training mode, the encoder output for two images, targets, and the images."""
    model = randomize(tiny_model(*overrides, family=family)).train()
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = model.encoder(model.backbone(pixels), None)
    samples = batch([2, 3], size)
    targets = Targets.collate(
        [sample["instances"].gt_classes for sample in samples],
        [box_xyxy_to_cxcywh(sample["instances"].gt_boxes.tensor / size) for sample in samples],
    )
    return model.decoder, encoded, targets, pixels


@pytest.mark.parametrize("family", ["dfine", "rtdetr", "dn"])
def test_predictions_do_not_depend_on_denoising_queries(family: str) -> None:
    """Otherwise the noised ground truth would leak to the predictions (DN-DETR, section 4.3)."""
    decoder, encoded, targets, _ = decoder_inputs(family)
    with torch.no_grad():
        without_denoising, nothing = decoder(encoded)
        beside, noised = decoder(encoded, targets)
    assert nothing is None
    assert len(noised) > 0
    assert beside["denoising"].logits.shape[2] == len(noised)
    torch.testing.assert_close(beside["main"].logits, without_denoising["main"].logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beside["main"].boxes, without_denoising["main"].boxes, rtol=1e-4, atol=1e-5)


def test_layers_after_eval_layer_run_only_in_training() -> None:
    assert tiny_model("model.decoder.eval_layer=-3").decoder.eval_layer == 0
    decoder, encoded, targets, _ = decoder_inputs("dfine", overrides=["model.decoder.eval_layer=-2"])
    ran: list[int] = []
    for index, layer in enumerate(decoder.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    everything = list(range(len(decoder.layers)))
    trained, _ = decoder(encoded, targets)
    assert (ran, len(trained["main"].logits)) == (everything, len(everything))
    ran.clear()
    evaluated, _ = decoder.eval()(encoded)
    assert (ran, len(evaluated["main"].logits)) == (everything[:-1], 1)


@pytest.mark.parametrize("family", REAL_TIME)
def test_predictions_do_not_depend_on_padded_tokens(family: str) -> None:
    decoder, maps, _, pixels = decoder_inputs(family)
    decoder.eval()
    padding = torch.zeros(len(pixels), *pixels.shape[-2:], dtype=torch.bool)
    padding[1, :, 32:] = True
    others = [map_.clone() for map_ in maps]
    for map_ in others:
        map_[1, :, :, map_.shape[-1] // 2 :] = 9.0
    with torch.no_grad():
        actual, expected_value = (decoder(given, padding=padding)[0]["main"].boxes for given in (others, maps))
        torch.testing.assert_close(actual, expected_value)
        unmasked, unmasked_other = (decoder(given)[0]["main"].boxes for given in (maps, others))
        assert not torch.equal(unmasked_other[:, 1], unmasked[:, 1]), "without the mask, these tokens have an effect"


def test_decoder_rejects_unsupported_encoder_output() -> None:
    decoder, maps, _, _ = decoder_inputs("dfine")
    with pytest.raises(ValueError, match=r"set decoder\.input_proj to null"):
        decoder(Memory.from_maps(decoder.input_proj(maps)))
    decoder.layers[0].num_levels = 3
    with pytest.raises(
        ValueError, match=r"attend to 3 maps \(layer.num_points or layer.num_levels\), the encoder returns 2"
    ):
        decoder(maps)
    decoder.input_proj = None
    with pytest.raises(ValueError, match=r"decoder\.input_proj is missing"):
        decoder(maps)


def test_dropout_applies_to_self_attention() -> None:
    assert GatedDecoderLayer(8, 2, 16, [2]).self_attn.dropout == 0
    assert GatedDecoderLayer(8, 2, 16, [2], dropout=0.3).self_attn.dropout == 0.3
