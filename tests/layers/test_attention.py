"""Block-wise self-attention equals ``torch.nn.MultiheadAttention`` with a mask over all pairs."""

import pytest
import torch
from torch import Tensor, nn

from deim.layers import AttentionBlock, SelfAttention
from deim.modeling.decoder.decoder import attention_pattern
from deim.modeling.queries.denoising import DenoisingGroups
from tests.models import dense_mask

DIM, HEADS, QUERIES = 16, 4, 9
CPU = torch.device("cpu")
BLOCKS = {
    "all see all": [],
    "two apart": [AttentionBlock(4, slice(0, 4)), AttentionBlock(5, slice(4, 9))],
    "denoising and hybrid": attention_pattern(DenoisingGroups(num_groups=2, group_size=2), 3, 2, CPU),
}


@pytest.fixture
def reference() -> nn.MultiheadAttention:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True).double()
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    return attention


def ours_like(reference: nn.MultiheadAttention) -> SelfAttention:
    attention = SelfAttention(DIM, HEADS).double()
    attention.load_state_dict(reference.state_dict())
    return attention


def gradients(result: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    upstream = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    return torch.autograd.grad(result, inputs, upstream)


@pytest.mark.parametrize("pattern", BLOCKS)
def test_block_attention_equals_masked_attention(pattern: str, reference: nn.MultiheadAttention) -> None:
    attention, blocks = ours_like(reference), BLOCKS[pattern]
    tokens, position = torch.randn(2, 2, QUERIES, DIM, dtype=torch.float64).requires_grad_()
    tokens_with_position = tokens + position
    mask = dense_mask(blocks, QUERIES) if blocks else None
    expected, _ = reference(tokens_with_position, tokens_with_position, tokens, attn_mask=mask, need_weights=False)
    output = attention(tokens_with_position, tokens, blocks)
    torch.testing.assert_close(output, expected)
    expected_gradients = gradients(expected, tokens, position, *reference.parameters())
    for gradient, expected_gradient in zip(
        gradients(output, tokens, position, *attention.parameters()), expected_gradients, strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient)


def test_padding_is_ignored(reference: nn.MultiheadAttention) -> None:
    tokens = torch.randn(2, QUERIES, DIM, dtype=torch.float64)
    padding = torch.zeros(2, QUERIES, dtype=torch.bool)
    padding[1, 6:] = True
    expected, _ = reference(tokens, tokens, tokens, key_padding_mask=padding, need_weights=False)
    torch.testing.assert_close(ours_like(reference)(tokens, tokens, padding=padding), expected)


def test_initialization_equals_torch() -> None:
    torch.manual_seed(3)
    expected = nn.MultiheadAttention(DIM, HEADS, batch_first=True).state_dict()
    torch.manual_seed(3)
    output = SelfAttention(DIM, HEADS).state_dict()
    assert output.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(output[name], value), name


def test_dropout_is_active_only_in_training() -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(DIM, HEADS, dropout=0.5), torch.randn(1, QUERIES, DIM)
    for blocks in BLOCKS.values():
        assert not torch.equal(attention.train()(tokens, tokens, blocks), attention(tokens, tokens, blocks))
        assert torch.equal(attention.eval()(tokens, tokens, blocks), attention(tokens, tokens, blocks))


def test_attention_pattern_isolates_denoising_groups() -> None:
    blocks = attention_pattern(DenoisingGroups(num_groups=2, group_size=2), 3, 0, CPU)
    expected = torch.tensor(
        [
            [0, 0, 1, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
        ]
    ).bool()
    assert torch.equal(dense_mask(blocks, 7), expected)


def test_attention_pattern_isolates_one_to_many_queries() -> None:
    expected = torch.tensor([[0, 0, 1], [1, 0, 1], [1, 1, 0]]).bool()
    assert torch.equal(
        dense_mask(attention_pattern(DenoisingGroups(num_groups=1, group_size=1), 1, 1, CPU), 3), expected
    )
    assert dense_mask(attention_pattern(None, 2, 2, CPU), 4).sum() == 8


@pytest.mark.parametrize("denoising", [None, DenoisingGroups(num_groups=0, group_size=0)], ids=["none", "of no object"])
def test_attention_pattern_is_empty_without_denoising(denoising: DenoisingGroups | None) -> None:
    assert attention_pattern(denoising, 5, 0, CPU) == []
