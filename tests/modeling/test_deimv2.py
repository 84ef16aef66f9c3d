"""DEIMv2 (arXiv 2509.20787): sizes, initial values, training, and the decoder compared with a slow reference."""

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from deim.inference import deployment_form, to_deployment
from deim.modeling import ClampedAddNormDecoderLayer, Decoder, GatedDecoderLayer
from deim.modeling.decoder import DistributionRefinement
from deim.structures.distribution import offsets_to_boxes, weighting_function
from tests.conftest import long_except
from tests.deimv2 import MODELS, PARAMETERS, build_model, model_config
from tests.models import batch, randomize

# With and without gateway and shared box head.
KINDS = ["hgnetv2_n", "hgnetv2_atto"]


def build_decoder(name: str) -> Decoder:
    torch.manual_seed(0)
    config = model_config(name)
    config.num_classes, config.decoder.queries.num_queries = 6, 30
    return instantiate(config.decoder)


@pytest.mark.parametrize("name", long_except(["dinov3_l", "hgnetv2_x", "hgnetv2_n", "hgnetv2_atto"], MODELS))
def test_numbers_of_parameters_are_the_official_ones(name: str) -> None:
    model = build_model(name)
    parts = [model.backbone, model.encoder, model.decoder, deployment_form(model)]
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == PARAMETERS[name]


class Reference:
    """The decoder of one image in evaluation, with one step per line."""

    def __init__(self, decoder: Decoder):
        self.weights = decoder.state_dict()
        self.layers, self.queries = len(decoder.layers), decoder.queries.num_queries
        self.points = decoder.layers[0].cross_attn.num_points

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def mlp(self, name: str, x: Tensor, count: int = 3) -> Tensor:
        for index in range(count):
            x = self.linear(f"{name}.layers.{index}", x)
            x = x * x.sigmoid() if index < count - 1 else x
        return x

    def normalize(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{name}.weight"]

    def select(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the content and the boxes of the best tokens, which are not projected."""
        tokens, anchors = [], []
        for level, features in enumerate(maps):
            height, width = features.shape[-2:]
            for row in range(height):
                for column in range(width):
                    side = 0.05 * 2**level
                    anchor = torch.tensor([(column + 0.5) / width, (row + 0.5) / height, side, side])
                    inside = bool(((anchor > 0.01) & (anchor < 0.99)).all())
                    tokens.append(features[:, row, column] * inside)
                    anchors.append(anchor.logit() if inside else torch.full((4,), torch.inf))
        content = torch.stack(tokens)
        scores = self.linear("queries.score_head", content).max(dim=-1).values
        best = sorted(range(len(scores)), key=lambda index: -float(scores[index]))[: self.queries]
        return content[best], (self.mlp("queries.bbox_head", content[best]) + torch.stack(anchors)[best]).sigmoid()

    def self_attention(self, name: str, x: Tensor, position: Tensor) -> Tensor:
        dim = x.shape[1]
        weight, bias = self.weights[f"{name}.in_proj_weight"], self.weights[f"{name}.in_proj_bias"]
        query, key, value = (
            (source @ weight[i * dim : (i + 1) * dim].T + bias[i * dim : (i + 1) * dim]).chunk(8, dim=-1)
            for i, source in enumerate((x + position, x + position, x))
        )
        heads = [(q @ k.T / q.shape[1] ** 0.5).softmax(dim=-1) @ v for q, k, v in zip(query, key, value, strict=True)]
        return self.linear(f"{name}.out_proj", torch.cat(heads, dim=-1))

    def cross_attention(self, name: str, x: Tensor, boxes: Tensor, maps: list[Tensor]) -> Tensor:
        count, total = len(x), sum(self.points)
        offsets = self.linear(f"{name}.sampling_offsets", x).view(count, 8, total, 2)
        weights = self.linear(f"{name}.attention_weights", x).view(count, 8, total).softmax(dim=-1)
        heads = []
        for head in range(8):
            sampled, first = torch.zeros(count, x.shape[1] // 8), 0
            for features, points in zip(maps, self.points, strict=True):
                channels = features.chunk(8)[head]
                for point in range(first, first + points):
                    places = boxes[:, :2] + offsets[:, head, point] / points * boxes[:, 2:] / 2
                    grid = (2 * places - 1)[None, :, None]
                    values = F.grid_sample(channels[None], grid, align_corners=False)[0, :, :, 0].T
                    sampled = sampled + weights[:, head, point, None] * values
                first += points
            heads.append(sampled)
        return torch.cat(heads, dim=-1)

    def fuse(self, name: str, x: Tensor, sampled: Tensor) -> Tensor:
        if f"{name}.gateway.gate.weight" not in self.weights:
            return self.normalize(f"{name}.norm2", x + sampled)
        gates = self.linear(f"{name}.gateway.gate", torch.cat([x, sampled], dim=-1)).sigmoid()
        keep, take = gates[:, : x.shape[1]], gates[:, x.shape[1] :]
        return self.normalize(f"{name}.gateway.norm", keep * x + take * sampled)

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        gate = self.linear(f"{name}.w1", x)
        return self.linear(f"{name}.w3", gate * gate.sigmoid() * self.linear(f"{name}.w2", x))

    def score(self, x: Tensor, corners: Tensor) -> Tensor:
        last = self.layers - 1
        highest = corners.softmax(dim=-1).sort(dim=-1, descending=True).values[..., :4]
        statistics = torch.cat([highest, highest.mean(dim=-1, keepdim=True)], dim=-1).flatten(1)
        quality = self.mlp(f"refinement.quality_heads.{last}.reg_conf", statistics, 2)
        return self.linear(f"refinement.score_heads.{last}", x) + quality

    def predict(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (Q, K) and boxes (Q, 4) for maps (C, h, w)."""
        x, boxes = self.select(maps)
        position = self.mlp("position.mlp", boxes).clamp(-10, 10)
        scale = self.weights["refinement.reg_scale"]
        bins = weighting_function(32, self.weights["refinement.up"], scale)
        initial, corners, previous = boxes, torch.zeros(()), torch.zeros(())
        for index in range(self.layers):
            name = f"layers.{index}"
            x = self.normalize(f"{name}.norm1", x + self.self_attention(f"{name}.self_attn", x, position))
            x = self.fuse(name, x, self.cross_attention(f"{name}.cross_attn", x + position, boxes, maps))
            x = self.normalize(f"{name}.norm3", x + self.feed_forward(f"{name}.feedforward", x))
            if index == 0:
                initial = (self.mlp("refinement.initial_bbox_head", x) + boxes.logit(eps=1e-5)).sigmoid()
            corners = corners + self.mlp(f"refinement.corner_heads.{index}", x + previous).view(-1, 4, 33)
            boxes, previous = offsets_to_boxes(initial, corners.softmax(dim=-1) @ bins, scale), x
        return self.score(x, corners), boxes


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_decoder_equals_a_slow_reference(name: str) -> None:
    decoder = build_decoder(name)
    decoder = randomize(decoder, 0.1).eval()
    # Anchors in the first and last column of the first map are invalid.
    maps = [torch.randn(1, decoder.layers[0].dim, height, width) for height, width in ((4, 60), (2, 30))]
    groups, _ = decoder(maps)
    logits, boxes = Reference(decoder).predict([features[0] for features in maps])
    torch.testing.assert_close(groups["main"].logits[0, 0], logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(groups["main"].boxes[0, 0], boxes, rtol=1e-9, atol=1e-9)
    assert logits.std() > 0.1, "the comparison must not be of constants"


def assert_xavier(weight: Tensor) -> None:
    """Assert that a matrix is uniform between the bounds of Xavier's initialization."""
    bound = (6 / sum(weight.shape[:2])) ** 0.5
    assert 0.9 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


@pytest.mark.parametrize("name", KINDS)
def test_initial_values_are_those_of_the_official_code(name: str) -> None:
    """Layers and heads start as copies of the first, all linear layers of the position are Xavier-uniform."""
    decoder = build_decoder(name)
    weights = decoder.state_dict()
    for part in ("layers", "refinement.score_heads", "refinement.corner_heads"):
        for key, value in weights.items():
            if key.startswith(f"{part}.0."):
                assert torch.equal(value, weights[key.replace(f"{part}.0.", f"{part}.2.")]), key
    for linear in decoder.position.mlp.layers:
        assert_xavier(linear.weight)
    assert_xavier(torch.cat([weights[f"layers.0.feedforward.w{i}.weight"] for i in (1, 2)]))
    assert (weights["refinement.quality_heads.0.reg_conf.layers.0.weight"]).any()
    assert not torch.equal(*(weights[f"refinement.quality_heads.{i}.reg_conf.layers.0.weight"] for i in (0, 1)))
    assert not [key for key in weights if key.startswith(("queries.projection", "queries.norm"))]
    prior = torch.sigmoid(weights["refinement.score_heads.0.bias"])
    torch.testing.assert_close(prior, torch.full_like(prior, 0.01))
    layer = decoder.layers[0]
    assert isinstance(layer, GatedDecoderLayer if name == "hgnetv2_n" else ClampedAddNormDecoderLayer)
    assert len({id(head) for head in decoder.refinement.corner_heads}) == (3 if name == "hgnetv2_n" else 1)


def test_heads_of_layers_are_independent_by_default() -> None:
    """D-FINE initializes every head on its own."""
    torch.manual_seed(0)
    refinement = DistributionRefinement(8, 3, 2)
    assert not torch.equal(refinement.score_heads[0].weight, refinement.score_heads[1].weight)
    hidden = [head.layers[0].get_parameter("weight") for head in refinement.corner_heads]
    assert not torch.equal(*hidden)


@pytest.mark.parametrize("name", KINDS)
def test_positions_are_computed_once(name: str) -> None:
    decoder = build_decoder(name).eval()
    calls = []
    decoder.position.register_forward_hook(lambda module, inputs, output: calls.append(output))
    received = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda module, inputs: received.append(inputs[1]))
    decoder([torch.randn(1, decoder.layers[0].dim, side, side) for side in (6, 3)])
    assert len(calls) == 1
    assert len(received) == 3
    assert all(position is calls[0] for position in received)


@pytest.mark.parametrize("name", KINDS)
def test_model_trains_all_parameters_and_converts_to_deployment_form(name: str) -> None:
    torch.manual_seed(0)
    config = model_config(name)
    config.num_classes, config.decoder.queries.num_queries = 6, 20
    model = instantiate(config)
    losses = model(batch([2, 0, 3]))
    assert ("loss_fgl" in losses) == ("loss_ddf_dn_0" in losses) == (name == "hgnetv2_n")
    assert {"loss_mal", "loss_mal_enc_0", "loss_giou_pre", "loss_bbox_dn_0", "loss_giou_aux_1"} <= losses.keys()
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model = randomize(model).eval()
    deployed = to_deployment(model)
    assert len(deployed.decoder.refinement.corner_heads) == 3
    with torch.no_grad():
        expected, actual = (m(batch([1]))[0]["instances"] for m in (model, deployed))
    torch.testing.assert_close(actual.scores, expected.scores, atol=1e-4, rtol=1e-3)


def test_a_shared_corner_head_keeps_being_shared() -> None:
    refinement = DistributionRefinement(8, 3, 3, shared_corner_head=True)
    refinement.keep_layers(2)
    first, second = refinement.corner_heads
    assert first is second
    # `up` and `reg_scale`, the corner head under two names, the last score and quality heads, and the initial box head
    assert len(refinement.state_dict()) == 2 + 2 * 6 + 2 + 4 + 6
    # linear layers of the corner, score, quality and initial box heads
    assert sum(isinstance(module, nn.Linear) for module in refinement.modules()) == 3 + 1 + 2 + 3


@pytest.mark.parametrize("name", ["dinov3_s", "hgnetv2_x"])
def test_configs_resolve(name: str) -> None:
    """Widths of all parts follow from the encoder's width; the model X of HGNetV2 projects the maps."""
    config = model_config(name)
    OmegaConf.resolve(config)
    width = {"dinov3_s": 192, "hgnetv2_x": 384}[name]
    assert list(config.decoder.input_proj.in_channels) == [width] * 3
    assert config.decoder.layer.norm.dim == config.decoder.layer.dim == {"dinov3_s": 192, "hgnetv2_x": 256}[name]
