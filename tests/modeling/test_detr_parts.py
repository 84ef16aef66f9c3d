"""The parts of Deformable DETR's and DAB-DETR's decoders, against loops written from the papers' equations."""

import math

import pytest
import torch
from torch import Tensor, nn

from deim.layers import AttentionBlock
from deim.modeling.decoder.conditional import (
    ConditionalCrossAttention,
    ConditionalDecoderLayer,
    ConditionalSelfAttention,
)
from deim.modeling.decoder.position import AnchorPosition, ModulatedAnchorPosition, QueryPosition
from deim.modeling.decoder.refinement import IterativeRefinement
from deim.modeling.queries import QueryDenoising, RegionProposals
from deim.modeling.queries.learned import LearnedAnchors, LearnedPoints, LearnedQueries
from deim.structures.memory import Memory
from deim.structures.predictions import Targets
from tests.models import randomize

DIM, HEADS, CLASSES = 16, 4, 3
SHAPES = [(2, 3), (1, 2)]


def memory_of(padding: bool = False, dtype: torch.dtype = torch.float32) -> Memory:
    hidden = None
    if padding:
        hidden = torch.zeros(2, 8, dtype=torch.bool)
        hidden[1, [2, 5]] = True  # of the second image, the last column of the first map
    return Memory(torch.randn(2, 8, DIM).to(dtype), SHAPES, hidden, position=torch.randn(1, 8, DIM).to(dtype))


def attended(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """One query (C,) to keys (S, C), head by head."""
    parts = []
    for own, theirs, held in zip(query.chunk(HEADS), keys.chunk(HEADS, -1), values.chunk(HEADS, -1), strict=True):
        scores = [
            float(own @ key) / math.sqrt(len(own)) if see else -math.inf for key, see in zip(theirs, seen, strict=True)
        ]
        parts.append(torch.tensor(scores).softmax(dim=0) @ held)
    return torch.cat(parts)


@torch.no_grad()
def test_self_attention_adds_the_projections_of_content_and_position() -> None:
    torch.manual_seed(0)
    part = randomize(ConditionalSelfAttention(DIM, HEADS, 0.0), 0.4)
    queries, position = torch.randn(2, 5, DIM), torch.randn(2, 5, DIM)
    mask = torch.rand(5, 5) < 0.4
    mask.fill_diagonal_(False)
    found, projected = part(queries, position, [AttentionBlock(5, slice(0, 5), mask)])
    for image, query in ((0, 1), (1, 4)):
        held, where = queries[image], position[image]
        own = part.query_content(held[query]) + part.query_position(where[query])
        keys = part.key_content(held) + part.key_position(where)
        expected = part.output_proj(attended(own, keys, part.value_proj(held), ~mask[query]))
        torch.testing.assert_close(found[image, query], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(projected[image, query], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("first", [False, True])
@torch.no_grad()
def test_cross_attention_compares_content_and_position_apart(padding: bool, first: bool) -> None:
    torch.manual_seed(0)
    part = randomize(ConditionalCrossAttention(DIM, HEADS, 0.0), 0.4)
    assert part.level_weights is None
    if not first:
        part.query_position = None
    memory, queries = memory_of(padding), torch.randn(2, 3, DIM)
    position = QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    found = part(queries, position, memory, queries)
    image, query = 1, 2
    where = part.key_position(memory.position[0])
    content, wanted = part.key_content(memory.tokens[image]), part.query_content(queries[image, query])
    if first:
        content = content + where
        wanted = wanted + part.query_position(position.embedding[image, query])
    own = side_by_side(wanted, part.query_sine(position.center[image, query]))
    seen = torch.ones(8, dtype=torch.bool) if memory.padding is None else ~memory.padding[image]
    expected = part.output_proj(
        attended(own, side_by_side(content, where), part.value_proj(memory.tokens[image]), seen)
    )
    torch.testing.assert_close(found[image, query], expected, rtol=1e-4, atol=1e-5)


def side_by_side(content: Tensor, position: Tensor) -> Tensor:
    heads = zip(content.chunk(HEADS, -1), position.chunk(HEADS, -1), strict=True)
    return torch.cat([part for head in heads for part in head], dim=-1)


@torch.no_grad()
def test_levels_are_weighed_without_padding_too() -> None:
    torch.manual_seed(0)
    part = randomize(ConditionalCrossAttention(DIM, HEADS, 0.0, num_levels=2), 0.4)
    memory, queries = memory_of(), torch.randn(2, 3, DIM)
    position = QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    weighing = torch.randn(2, 3, DIM)
    found = part(queries, position, memory, weighing)
    memory.padding = torch.zeros(2, 8, dtype=torch.bool)
    torch.testing.assert_close(part(queries, position, memory, weighing), found)


@torch.no_grad()
def test_a_layer_is_post_norm_and_weighs_levels_by_the_self_attention_queries() -> None:
    torch.manual_seed(0)
    layer = randomize(ConditionalDecoderLayer(DIM, HEADS, 24, num_levels=2), 0.4)
    assert (layer.dim, layer.num_levels) == (DIM, 2)
    memory, queries = memory_of(), torch.randn(2, 3, DIM)
    position = QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    blocks = [AttentionBlock(1, slice(0, 1)), AttentionBlock(2, slice(1, 3))]
    own, projected = layer.self_attn(queries, position.embedding, blocks)
    held = layer.norm1(queries + own)
    held = layer.norm2(held + layer.cross_attn(held, position, memory, projected))
    expected = layer.norm3(held + layer.linear2(layer.linear1(held).relu()))
    torch.testing.assert_close(layer(queries, position, torch.zeros(2, 3, 4), memory, blocks), expected)
    torch.testing.assert_close(layer.next_layer()(queries, position, torch.zeros(2, 3, 4), memory).shape, queries.shape)
    single = ConditionalDecoderLayer(DIM, HEADS, 24)
    assert single.num_levels is None, "all tokens at once: maps are not told apart"


@pytest.mark.parametrize("lacking", ["center", "position"])
def test_what_cannot_be_compared_is_refused(lacking: str) -> None:
    memory, position = memory_of(), QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    setattr(position if lacking == "center" else memory, lacking, None)
    with pytest.raises(ValueError, match="conditional cross-attention compares positions"):
        ConditionalDecoderLayer(DIM, HEADS, 24)(torch.randn(2, 3, DIM), position, torch.zeros(2, 3, 4), memory)


@torch.no_grad()
def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    memory, queries = memory_of(), torch.randn(2, 3, DIM)
    position = QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    for levels in (1, 2):
        layer = randomize(ConditionalDecoderLayer(DIM, HEADS, 24, num_levels=levels, dropout=0.3), 0.4)
        for part, given in (
            (layer.self_attn, (queries, position.embedding)),
            (layer.cross_attn, (queries, position, memory, queries)),
        ):
            same, other = ([part.train(training)(*given) for _ in range(2)] for training in (False, True))
            first, second = (one[0] if isinstance(one, tuple) else one for one in same)
            assert torch.equal(first, second)
            first, second = (one[0] if isinstance(one, tuple) else one for one in other)
            assert not torch.equal(first, second)


def test_parts_begin_with_xavier_matrices() -> None:
    torch.manual_seed(0)
    for part in (ConditionalDecoderLayer(64, HEADS, 96, num_levels=2), AnchorPosition(64), ModulatedAnchorPosition(64)):
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1:
                bound = math.sqrt(6 / sum(parameter.shape))
                assert 0.9 * bound < parameter.abs().max() <= bound, name


@torch.no_grad()
def test_anchors_are_embedded_relative_to_the_batch() -> None:
    """As published: where images are padded, the sines are those of the box in the padded picture."""
    torch.manual_seed(0)
    part, queries = randomize(AnchorPosition(DIM), 0.4), torch.randn(2, 3, DIM)
    memory, boxes = memory_of(padding=True), torch.rand(2, 3, 4) * 0.4 + 0.2
    assert memory.valid_ratios is not None
    torch.testing.assert_close(memory.valid_ratios[:, 0], torch.tensor([[1.0, 1.0], [2 / 3, 1.0]]))
    scaled = boxes * torch.tensor([[1.0, 1, 1, 1], [2 / 3, 1, 2 / 3, 1]])[:, None]
    found = part(1, queries, boxes, memory).embedding
    torch.testing.assert_close(found, part(1, queries, scaled, memory_of()).embedding)
    assert not torch.allclose(found[1], part(1, queries, boxes, memory_of()).embedding[1])


SOURCES = [
    lambda **options: LearnedQueries(DIM, 5, **options),
    lambda **options: LearnedPoints(DIM, 5, **options),
    lambda **options: LearnedAnchors(DIM, 5, **options),
    lambda **options: LearnedAnchors(DIM, 5, shared_content=False, **options),
    lambda **options: RegionProposals(DIM, CLASSES, 5, **options),
    lambda **options: RegionProposals(DIM, CLASSES, 5, mixed_selection=True, **options),
]


@pytest.mark.parametrize("build", SOURCES)
@torch.no_grad()
def test_queries_of_a_hybrid_branch_come_last_and_only_in_training(build) -> None:
    torch.manual_seed(0)
    assert build().num_one_to_many == 0
    source = randomize(build(num_one_to_many=3), 0.4)
    memory = memory_of()
    trained, used = source.train()(memory), source.eval()(memory)
    assert (trained.content.shape, trained.num_one_to_many) == ((2, 8, DIM), 3)
    assert (used.content.shape, used.num_one_to_many) == ((2, 5, DIM), 0)
    for name in ("content", "references", "position"):
        if getattr(used, name) is not None:
            torch.testing.assert_close(getattr(trained, name)[:, :5], getattr(used, name))
    source.reparameterize()
    assert source.num_one_to_many == 0
    deployed = source.train()(memory)
    torch.testing.assert_close(deployed.content, used.content)
    assert not [name for name, p in source.named_parameters() if p.shape[0] == 8], "their rows are gone"


@pytest.mark.parametrize("build", SOURCES)
@torch.no_grad()
def test_queries_are_of_the_type_of_the_tokens(build) -> None:
    source = build().eval()
    with torch.autocast("cpu", torch.bfloat16):
        made = source(memory_of(dtype=torch.bfloat16))
    assert made.content.dtype == torch.bfloat16
    assert made.position is None or made.position.dtype == torch.bfloat16


@torch.no_grad()
def test_positions_are_of_the_type_of_the_queries() -> None:
    queries, boxes, memory = torch.randn(2, 3, DIM).bfloat16(), torch.rand(2, 3, 4) / 2 + 0.2, memory_of()
    for kind in (AnchorPosition, ModulatedAnchorPosition):
        assert kind(DIM).bfloat16()(1, queries, boxes, memory).embedding.dtype == torch.bfloat16


def test_learned_boxes_begin_anywhere_in_the_image_half_its_size() -> None:
    torch.manual_seed(0)
    boxes = LearnedQueries(DIM, 4000).references.weight.sigmoid()
    assert (boxes[:, 2:] == 0.5).all()
    assert torch.isfinite(boxes.logit()).all()
    for quarter in boxes[:, :2].quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0).T:
        torch.testing.assert_close(quarter, torch.tensor([0.25, 0.5, 0.75]), atol=0.03, rtol=0)
    assert boxes[:, :2].min() >= 1e-3 - 1e-6
    assert boxes[:, :2].max() <= 1 - 1e-3 + 1e-6


def test_anchors_begin_without_patterns_and_with_one_content() -> None:
    source = LearnedAnchors(DIM, 5)
    assert source.patterns is None
    assert source.content.weight.shape == (1, DIM - 1)
    assert LearnedAnchors(DIM, 5, 2, shared_content=False).content.weight.shape == (7, DIM - 1)


def test_proposals_supervise_every_token_by_its_own_box() -> None:
    torch.manual_seed(0)
    source = randomize(RegionProposals(DIM, CLASSES, 3), 0.4).train()
    memory = memory_of()
    made = source(memory)
    tokens, anchors, valid = source.candidates(memory)
    content, logits = source.score(tokens, valid)
    found = made.groups["encoder"]
    torch.testing.assert_close(found.logits, logits[None])
    torch.testing.assert_close(found.boxes, (source.bbox_head(content) + anchors).sigmoid()[None])
    best = logits[1, :, 0].topk(3).indices
    torch.testing.assert_close(made.references[1].sigmoid(), found.boxes[0, 1, best])
    assert not made.references.requires_grad
    assert not source.eval()(memory).groups
    torch.testing.assert_close(source(memory).references, made.references)
    larger = RegionProposals(DIM, CLASSES, 3, anchor_size=0.3).candidates(memory)[1].sigmoid()
    torch.testing.assert_close(larger[0, 0, 2:], torch.tensor([0.3, 0.3]))


@torch.no_grad()
def test_boxes_of_others_are_embedded_as_the_proposals_are() -> None:
    torch.manual_seed(0)
    source = randomize(RegionProposals(DIM, CLASSES, 3), 0.4)
    made = source(memory_of())
    torch.testing.assert_close(source.embed_positions(made.references), made.position)


def test_refinement_takes_its_options() -> None:
    torch.manual_seed(0)
    shared = IterativeRefinement(DIM, CLASSES, 3, shared_heads=True, size_bias=-2.0, logit_eps=0.1)
    assert shared.bbox_heads[0] is shared.bbox_heads[2]
    start = shared.initial_state(torch.tensor([[[0.001, 0.5, 0.999, 0.5]]]))
    _, found = shared(0, torch.zeros(1, 1, DIM), start, predict=True)
    # what divides is kept from 0, as in Deformable DETR; the head begins at its bias
    x, width = math.log(0.1 / 0.999), math.log(0.999 / 0.1) - 2
    expected = torch.tensor([x, 0.0, width, -2.0]).sigmoid().tolist()
    assert found["main"].boxes[0, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_noise_of_dn_detr_lies_on_both_sides() -> None:
    torch.manual_seed(0)
    targets = Targets.collate([torch.tensor([1])], [torch.tensor([[0.5, 0.5, 0.2, 0.4]])])
    noise = QueryDenoising(DIM, 5, num_groups=2000, box_noise_scale=0.4)
    moved = (noise(targets).references.sigmoid()[0] - targets.boxes[0, 0]) / torch.tensor([0.1, 0.2, 0.2, 0.4])
    assert moved.abs().max() <= 0.4 + 1e-4
    assert moved.abs().max() > 0.38
    torch.testing.assert_close(moved.mean(dim=0), torch.zeros(4), atol=0.02, rtol=0)
    assert moved.std(dim=0).tolist() == pytest.approx([0.4 / math.sqrt(3)] * 4, abs=0.02)
    assert isinstance(noise.class_embedding, nn.Embedding)
