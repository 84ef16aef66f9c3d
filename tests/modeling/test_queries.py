"""Query selection and denoising queries."""

import pytest
import torch
from torch import nn

from deim.modeling.queries import ContrastiveDenoising, QuerySelection
from deim.modeling.queries.anchors import generate_anchors
from deim.structures.memory import Memory, flatten_padding
from deim.structures.predictions import Targets


def targets_of(*counts: int) -> Targets:
    torch.manual_seed(0)
    return Targets.collate([torch.randint(5, (n,)) for n in counts], [torch.rand(n, 4) * 0.3 + 0.3 for n in counts])


def memory_of(tokens: torch.Tensor | None = None, padding: torch.Tensor | None = None) -> Memory:
    shapes = [(4, 8), (2, 4)]
    tokens = torch.zeros(1, 40, 8) if tokens is None else tokens
    return Memory(tokens, shapes, None if padding is None else flatten_padding(padding, shapes))


def test_anchor_centers_and_sizes() -> None:
    anchors, valid = generate_anchors(memory_of())
    boxes = anchors.sigmoid()[0]
    assert valid.all()
    torch.testing.assert_close(boxes[0], torch.tensor([0.5 / 8, 0.5 / 4, 0.05, 0.05]))
    torch.testing.assert_close(boxes[32 + 5], torch.tensor([1.5 / 4, 1.5 / 2, 0.1, 0.1]))


def test_anchor_size() -> None:
    torch.manual_seed(0)
    selection = QuerySelection(8, 3, num_queries=40, anchor_size=0.2)
    sides = selection(memory_of(torch.randn(1, 40, 8))).references.sigmoid()[0, :, 2]
    finite = sides[sides < 0.999]
    assert finite.unique().tolist() == pytest.approx([0.2, 0.4]), "the box head starts at zero"
    for impossible in (0, 1):
        with pytest.raises(ValueError, match="anchor_size must be between 0 and 1"):
            QuerySelection(8, 3, num_queries=4, anchor_size=impossible)


def test_box_head_activation() -> None:
    for name, kind in (("relu", nn.ReLU), ("silu", nn.SiLU)):
        assert any(isinstance(part, kind) for part in QuerySelection(8, 3, 4, activation=name).bbox_head.modules())


def test_the_best_scores_are_selected() -> None:
    torch.manual_seed(0)
    selection = QuerySelection(8, 3, num_queries=4)
    torch.nn.init.normal_(selection.score_head.weight)
    tokens = torch.randn(2, 40, 8)
    selected = selection(memory_of(tokens))
    scores = selection.score_head(selection.norm(selection.projection(tokens))).amax(dim=-1)
    expected = scores.sort(dim=1, descending=True).values[:, :4]
    torch.testing.assert_close(selected.groups["encoder"].logits[0].amax(dim=-1), expected)
    assert not selected.content.requires_grad
    assert not selected.references.requires_grad
    assert selected.groups["encoder"].boxes.requires_grad


def test_selection_gradients_equal_scoring_all_tokens() -> None:
    torch.manual_seed(0)
    selection = QuerySelection(8, 3, num_queries=4).double()
    torch.nn.init.normal_(selection.score_head.weight)
    tokens = torch.randn(2, 40, 8, dtype=torch.float64, requires_grad=True)
    parameters = (tokens, *selection.projection.parameters(), *selection.norm.parameters())
    chosen = selection(memory_of(tokens)).groups["encoder"].logits[0]
    logits = selection.score_head(selection.norm(selection.projection(tokens)))
    best = logits.amax(dim=-1).topk(4, dim=1).indices[..., None].expand(-1, -1, 3)
    expected = torch.autograd.grad(logits.gather(1, best).square().sum(), parameters)
    for actual, expected_gradient in zip(torch.autograd.grad(chosen.square().sum(), parameters), expected, strict=True):
        torch.testing.assert_close(actual, expected_gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_selection_gradients_under_autocast(dtype: torch.dtype) -> None:
    """Autocast does not reuse weights that were cast without gradients."""
    selection = QuerySelection(8, 3, num_queries=4)
    with torch.autocast("cpu", dtype):
        chosen = selection(memory_of(torch.randn(1, 40, 8)))
    chosen.groups["encoder"].logits.float().sum().backward()
    assert selection.projection.weight.grad is not None
    assert selection.score_head.weight.grad.abs().sum() > 0


def test_padded_tokens_have_no_anchor() -> None:
    selection = QuerySelection(8, 3, num_queries=40)
    padding = torch.zeros(1, 32, 64, dtype=torch.bool)
    padding[:, :, 32:] = True
    memory = memory_of(torch.randn(1, 40, 8), padding)
    anchors, valid = generate_anchors(memory)
    assert not valid[memory.padding].any()
    # relative to the half of the batch's width that the image takes
    torch.testing.assert_close(anchors[0, 1].sigmoid(), torch.tensor([1.5 / 4, 0.5 / 4, 0.05, 0.05]))
    is_finite = torch.isfinite(selection(memory).references).all(dim=-1)
    assert is_finite.sum() == valid.sum() == 20, "all 40 tokens are selected, of which 20 are not padding"


def test_too_few_tokens_are_reported() -> None:
    with pytest.raises(ValueError, match="100 queries are to be selected from 40 tokens"):
        QuerySelection(8, 3, num_queries=100)(memory_of(torch.randn(1, 40, 8)))


def test_anchors_beyond_the_image_are_invalid() -> None:
    """Anchors within 0.01 of the border, or wider than 0.99, are invalid: the first and last of 128 columns, and the fifth
    level."""
    maps = [(2, 128), (1, 4), (1, 2), (1, 2), (1, 2)]
    anchors, valid = generate_anchors(Memory(torch.zeros(1, sum(h * w for h, w in maps), 8), maps), 0.07)
    first = valid[0, :256, 0].view(2, 128)
    assert first[:, 1:-1].all()
    assert not first[:, [0, -1]].any()
    assert valid[0, 256:-2].all()
    assert not valid[0, -2:].any(), "0.07 * 16 is larger than the image"
    assert torch.isinf(anchors[~valid.expand_as(anchors)]).all()
    values, same = QuerySelection(8, 3, num_queries=4, anchor_size=0.07).anchors(tuple(maps))
    assert torch.equal(values, anchors)
    assert torch.equal(same, valid)


def test_box_noise_is_scaled_and_stays_in_the_image() -> None:
    torch.manual_seed(0)
    corner = Targets.collate([torch.tensor([0])], [torch.tensor([[0.1, 0.9, 0.2, 0.2]])])
    boxes = ContrastiveDenoising(8, 5, num_queries=400)(corner).references.sigmoid()
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    assert low.min() > -1e-4
    assert high.max() < 1 + 1e-4
    assert low.min() < 1e-3
    assert high.max() > 1 - 1e-3
    targets = targets_of(4)
    queries = ContrastiveDenoising(8, 5, num_queries=400, box_noise_scale=0.2)(targets)
    moved = (queries.references.sigmoid().view(-1, 2, 4, 4) - targets.boxes[0]).abs() / targets.boxes[0, :, 2:].repeat(
        1, 2
    )
    assert moved[:, 0, :, :2].max() <= 0.2 / 2 + 1e-3, (
        "a center moves by the mean of two edges, each by half a side at most"
    )
    assert moved[:, 1, :, :2].max() > 0.2 / 2


def test_more_objects_than_denoising_queries_give_one_group() -> None:
    assert ContrastiveDenoising(8, 5, num_queries=3)(targets_of(5)).num_groups == 1


def test_denoising_without_noise_repeats_the_targets() -> None:
    targets = targets_of(2, 3)
    noise = ContrastiveDenoising(8, 5, num_queries=7, label_noise_ratio=0, box_noise_scale=0)
    queries = noise(targets)
    assert queries.num_groups == 7 // 3
    assert len(queries) == 2 * 2 * 3
    boxes = queries.references.sigmoid().view(2, 2, 2, 3, 4)
    torch.testing.assert_close(boxes, targets.boxes[:, None, None].expand_as(boxes), atol=2e-5, rtol=0)
    assert queries.content.view(2, 2, 2, 3, 8)[0, :, :, 2].abs().sum() == 0, "padding has no content"


def test_positives_move_less_than_half_a_side_and_negatives_more() -> None:
    targets = targets_of(4)
    queries = ContrastiveDenoising(8, 5, num_queries=400)(targets)
    boxes = queries.references.sigmoid().view(queries.num_groups, 2, 4, 4)
    low = boxes[..., :2] - boxes[..., 2:] / 2
    true = targets.boxes[0]
    true_low = true[:, :2] - true[:, 2:] / 2
    moved = (low - true_low).abs() / (true[:, 2:] / 2)
    assert moved[:, 0].max() <= 1 + 1e-3
    # An edge that moves inward beyond the opposite edge takes its place, and an edge at the image border is clipped.
    outward = (low < true_low) & (low > 0.01)
    assert moved[:, 1][outward[:, 1]].min() >= 1 - 1e-3


def test_labels_are_replaced_with_half_the_noise_ratio() -> None:
    torch.manual_seed(0)
    noise = ContrastiveDenoising(1, 5, num_queries=4000, label_noise_ratio=0.5)
    with torch.no_grad():
        noise.class_embedding.weight.copy_(torch.arange(6.0)[:, None])
    targets = targets_of(4)
    labels = noise(targets).content.view(-1, 4)
    changed = (labels != targets.labels[0]).float().mean()
    assert changed == pytest.approx(0.25 * 4 / 5, abs=0.02)


def test_batch_without_objects_uses_the_label_embedding() -> None:
    noise = ContrastiveDenoising(8, 5)
    queries = noise(targets_of(0, 0))
    assert len(queries) == 0
    queries.content.sum().backward()
    assert noise.class_embedding.weight.grad is not None
