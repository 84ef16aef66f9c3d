"""Parts of the decoders of Deformable DETR and DAB-DETR equal references that follow the papers' equations."""

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
        hidden[1, [2, 5]] = True  # the last column of the first map, in the second image
    return Memory(torch.randn(2, 8, DIM).to(dtype), SHAPES, hidden, position=torch.randn(1, 8, DIM).to(dtype))


def attended(query: Tensor, keys: Tensor, values: Tensor, unpadded: Tensor) -> Tensor:
    """Return the multi-head attention output of one query (C,) for keys (S, C)."""
    parts = []
    for query_vector, key_vectors, value_vectors in zip(
        query.chunk(HEADS), keys.chunk(HEADS, -1), values.chunk(HEADS, -1), strict=True
    ):
        scores = [
            float(query_vector @ key) / math.sqrt(len(query_vector)) if is_unpadded else -math.inf
            for key, is_unpadded in zip(key_vectors, unpadded, strict=True)
        ]
        parts.append(torch.tensor(scores).softmax(dim=0) @ value_vectors)
    return torch.cat(parts)


@torch.no_grad()
def test_conditional_self_attention_equals_reference() -> None:
    torch.manual_seed(0)
    part = randomize(ConditionalSelfAttention(DIM, HEADS, 0.0), 0.4)
    queries, position = torch.randn(2, 5, DIM), torch.randn(2, 5, DIM)
    mask = torch.rand(5, 5) < 0.4
    mask.fill_diagonal_(False)
    actual, projected = part(queries, position, [AttentionBlock(5, slice(0, 5), mask)])
    for image, query in ((0, 1), (1, 4)):
        image_queries, image_position = queries[image], position[image]
        query_vector = part.query_content(image_queries[query]) + part.query_position(image_position[query])
        keys = part.key_content(image_queries) + part.key_position(image_position)
        expected = part.output_proj(attended(query_vector, keys, part.value_proj(image_queries), ~mask[query]))
        torch.testing.assert_close(actual[image, query], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(projected[image, query], query_vector, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("first", [False, True])
@torch.no_grad()
def test_conditional_cross_attention_equals_reference(padding: bool, first: bool) -> None:
    torch.manual_seed(0)
    part = randomize(ConditionalCrossAttention(DIM, HEADS, 0.0), 0.4)
    assert part.level_weights is None
    if not first:
        part.query_position = None
    memory, queries = memory_of(padding), torch.randn(2, 3, DIM)
    position = QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    actual = part(queries, position, memory, queries)
    image, query = 1, 2
    where = part.key_position(memory.position[0])
    content, query_content = part.key_content(memory.tokens[image]), part.query_content(queries[image, query])
    if first:
        content = content + where
        query_content = query_content + part.query_position(position.embedding[image, query])
    query_vector = concatenate_heads(query_content, part.query_sine(position.center[image, query]))
    unpadded = torch.ones(8, dtype=torch.bool) if memory.padding is None else ~memory.padding[image]
    expected = part.output_proj(
        attended(query_vector, concatenate_heads(content, where), part.value_proj(memory.tokens[image]), unpadded)
    )
    torch.testing.assert_close(actual[image, query], expected, rtol=1e-4, atol=1e-5)


def concatenate_heads(content: Tensor, position: Tensor) -> Tensor:
    heads = zip(content.chunk(HEADS, -1), position.chunk(HEADS, -1), strict=True)
    return torch.cat([part for head in heads for part in head], dim=-1)


@torch.no_grad()
def test_level_weights_without_padding() -> None:
    torch.manual_seed(0)
    part = randomize(ConditionalCrossAttention(DIM, HEADS, 0.0, num_levels=2), 0.4)
    memory, queries = memory_of(), torch.randn(2, 3, DIM)
    position = QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    weighing = torch.randn(2, 3, DIM)
    actual = part(queries, position, memory, weighing)
    memory.padding = torch.zeros(2, 8, dtype=torch.bool)
    torch.testing.assert_close(part(queries, position, memory, weighing), actual)


@torch.no_grad()
def test_conditional_layer_equals_reference() -> None:
    torch.manual_seed(0)
    layer = randomize(ConditionalDecoderLayer(DIM, HEADS, 24, num_levels=2), 0.4)
    assert (layer.dim, layer.num_levels) == (DIM, 2)
    memory, queries = memory_of(), torch.randn(2, 3, DIM)
    position = QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    blocks = [AttentionBlock(1, slice(0, 1)), AttentionBlock(2, slice(1, 3))]
    attended_queries, projected = layer.self_attn(queries, position.embedding, blocks)
    hidden = layer.norm1(queries + attended_queries)
    hidden = layer.norm2(hidden + layer.cross_attn(hidden, position, memory, projected))
    expected = layer.norm3(hidden + layer.linear2(layer.linear1(hidden).relu()))
    torch.testing.assert_close(layer(queries, position, torch.zeros(2, 3, 4), memory, blocks), expected)
    torch.testing.assert_close(layer.next_layer()(queries, position, torch.zeros(2, 3, 4), memory).shape, queries.shape)
    single = ConditionalDecoderLayer(DIM, HEADS, 24)
    assert single.num_levels is None, "the attention weights are normalized over the tokens of all maps"


@pytest.mark.parametrize("lacking", ["center", "position"])
def test_conditional_layer_requires_position_embeddings(lacking: str) -> None:
    memory, position = memory_of(), QueryPosition(torch.randn(2, 3, DIM), torch.randn(2, 3, DIM))
    setattr(position if lacking == "center" else memory, lacking, None)
    with pytest.raises(ValueError, match="conditional cross-attention compares positions"):
        ConditionalDecoderLayer(DIM, HEADS, 24)(torch.randn(2, 3, DIM), position, torch.zeros(2, 3, 4), memory)


@torch.no_grad()
def test_dropout_is_active_only_in_training() -> None:
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
            first, second = (output[0] if isinstance(output, tuple) else output for output in same)
            assert torch.equal(first, second)
            first, second = (output[0] if isinstance(output, tuple) else output for output in other)
            assert not torch.equal(first, second)


def test_xavier_initialization() -> None:
    torch.manual_seed(0)
    for part in (ConditionalDecoderLayer(64, HEADS, 96, num_levels=2), AnchorPosition(64), ModulatedAnchorPosition(64)):
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1:
                bound = math.sqrt(6 / sum(parameter.shape))
                assert 0.9 * bound < parameter.abs().max() <= bound, name


@torch.no_grad()
def test_anchor_positions_are_relative_to_the_padded_batch() -> None:
    """As in the official code, the sine embedding is that of the box relative to the padded image."""
    torch.manual_seed(0)
    part, queries = randomize(AnchorPosition(DIM), 0.4), torch.randn(2, 3, DIM)
    memory, boxes = memory_of(padding=True), torch.rand(2, 3, 4) * 0.4 + 0.2
    assert memory.valid_ratios is not None
    torch.testing.assert_close(memory.valid_ratios[:, 0], torch.tensor([[1.0, 1.0], [2 / 3, 1.0]]))
    scaled = boxes * torch.tensor([[1.0, 1, 1, 1], [2 / 3, 1, 2 / 3, 1]])[:, None]
    actual = part(1, queries, boxes, memory).embedding
    torch.testing.assert_close(actual, part(1, queries, scaled, memory_of()).embedding)
    assert not torch.allclose(actual[1], part(1, queries, boxes, memory_of()).embedding[1])


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
def test_one_to_many_queries_come_last_and_only_in_training(build) -> None:
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
    source.remove_training_parts()
    assert source.num_one_to_many == 0
    deployed = source.train()(memory)
    torch.testing.assert_close(deployed.content, used.content)
    assert not [name for name, p in source.named_parameters() if p.shape[0] == 8], (
        "the rows of one-to-many queries are removed"
    )


@pytest.mark.parametrize("build", SOURCES)
@torch.no_grad()
def test_queries_have_the_dtype_of_the_tokens(build) -> None:
    source = build().eval()
    with torch.autocast("cpu", torch.bfloat16):
        initial = source(memory_of(dtype=torch.bfloat16))
    assert initial.content.dtype == torch.bfloat16
    assert initial.position is None or initial.position.dtype == torch.bfloat16


@torch.no_grad()
def test_positions_have_the_dtype_of_the_queries() -> None:
    queries, boxes, memory = torch.randn(2, 3, DIM).bfloat16(), torch.rand(2, 3, 4) / 2 + 0.2, memory_of()
    for kind in (AnchorPosition, ModulatedAnchorPosition):
        assert kind(DIM).bfloat16()(1, queries, boxes, memory).embedding.dtype == torch.bfloat16


def test_initialization_of_learned_queries() -> None:
    torch.manual_seed(0)
    boxes = LearnedQueries(DIM, 4000).references.weight.sigmoid()
    assert (boxes[:, 2:] == 0.5).all()
    assert torch.isfinite(boxes.logit()).all()
    for quarter in boxes[:, :2].quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0).T:
        torch.testing.assert_close(quarter, torch.tensor([0.25, 0.5, 0.75]), atol=0.03, rtol=0)
    assert boxes[:, :2].min() >= 1e-3 - 1e-6
    assert boxes[:, :2].max() <= 1 - 1e-3 + 1e-6


def test_at_least_one_query_is_required() -> None:
    assert LearnedQueries(DIM, num_queries=1).num_one_to_many == 0
    with pytest.raises(ValueError, match="num_queries must be at least 1, got 0"):
        LearnedQueries(DIM, num_queries=0)


def test_learned_anchor_defaults() -> None:
    source = LearnedAnchors(DIM, 5)
    assert source.patterns is None
    assert source.content.weight.shape == (1, DIM - 1)
    assert LearnedAnchors(DIM, 5, 2, shared_content=False).content.weight.shape == (7, DIM - 1)


def test_region_proposals_supervise_every_token() -> None:
    torch.manual_seed(0)
    source = randomize(RegionProposals(DIM, CLASSES, 3), 0.4).train()
    memory = memory_of()
    initial = source(memory)
    tokens, anchors, valid = source.candidates(memory)
    content, logits = source.score(tokens, valid)
    actual = initial.groups["encoder"]
    torch.testing.assert_close(actual.logits, logits[None])
    torch.testing.assert_close(actual.boxes, (source.bbox_head(content) + anchors).sigmoid()[None])
    best = logits[1, :, 0].topk(3).indices
    torch.testing.assert_close(initial.references[1].sigmoid(), actual.boxes[0, 1, best])
    assert not initial.references.requires_grad
    assert not source.eval()(memory).groups
    torch.testing.assert_close(source(memory).references, initial.references)
    larger = RegionProposals(DIM, CLASSES, 3, anchor_size=0.3).candidates(memory)[1].sigmoid()
    torch.testing.assert_close(larger[0, 0, 2:], torch.tensor([0.3, 0.3]))


@torch.no_grad()
def test_embed_positions_equals_the_embedding_of_proposals() -> None:
    torch.manual_seed(0)
    source = randomize(RegionProposals(DIM, CLASSES, 3), 0.4)
    initial = source(memory_of())
    torch.testing.assert_close(source.embed_positions(initial.references), initial.position)


def test_refinement_options() -> None:
    torch.manual_seed(0)
    shared = IterativeRefinement(DIM, CLASSES, 3, shared_heads=True, size_bias=-2.0, logit_eps=0.1)
    assert shared.bbox_heads[0] is shared.bbox_heads[2]
    start = shared.initial_state(torch.tensor([[[0.001, 0.5, 0.999, 0.5]]]))
    _, actual = shared(0, torch.zeros(1, 1, DIM), start, predict=True)
    # The logit is log(max(x, eps) / max(1 - x, eps)), as in Deformable DETR. The initial output of the head is its bias.
    x, width = math.log(0.1 / 0.999), math.log(0.999 / 0.1) - 2
    expected = torch.tensor([x, 0.0, width, -2.0]).sigmoid().tolist()
    assert actual["main"].boxes[0, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_dn_detr_box_noise_is_symmetric() -> None:
    torch.manual_seed(0)
    targets = Targets.collate([torch.tensor([1])], [torch.tensor([[0.5, 0.5, 0.2, 0.4]])])
    noise = QueryDenoising(DIM, 5, num_groups=2000, box_noise_scale=0.4)
    moved = (noise(targets).references.sigmoid()[0] - targets.boxes[0, 0]) / torch.tensor([0.1, 0.2, 0.2, 0.4])
    assert moved.abs().max() <= 0.4 + 1e-4
    assert moved.abs().max() > 0.38
    torch.testing.assert_close(moved.mean(dim=0), torch.zeros(4), atol=0.02, rtol=0)
    assert moved.std(dim=0).tolist() == pytest.approx([0.4 / math.sqrt(3)] * 4, abs=0.02)
    assert isinstance(noise.class_embedding, nn.Embedding)
