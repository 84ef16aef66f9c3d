"""The hybrid branch: additional one-to-many queries in training, none in evaluation."""

import pytest
import torch
from detectron2.config import instantiate

from deim.config import with_deim_loss, with_hybrid_branch, with_learned_queries
from deim.inference import to_deployment
from deim.modeling.losses import BoxGIoULoss, BoxL1Loss, Criterion, FocalLoss, Supervision
from deim.structures.predictions import Predictions, Targets
from tests.models import REAL_TIME, batch, randomize, recipe

SMALL = ("model.decoder.num_layers=2", "model.decoder.queries.num_queries=20")


def hybrid_model(family: str, *changes, num_queries: int = 30, seed: int = 0):
    config = recipe(REAL_TIME[family], *SMALL).model
    for change in changes:
        change(config)
    torch.manual_seed(seed)
    return instantiate(with_hybrid_branch(config, num_queries=num_queries, repeats=3))


@pytest.mark.parametrize("changes", [(), (with_learned_queries,)], ids=["selected", "learned"])
@pytest.mark.parametrize("family", REAL_TIME)
def test_hybrid_branch_is_active_only_in_training(family: str, changes: tuple) -> None:
    model = hybrid_model(family, *changes)
    samples = batch([2, 0, 3])
    losses = model(samples)
    assert {"loss_mal_o2m", "loss_bbox_o2m_0", "loss_giou_o2m", "loss_mal_dn_0"} <= set(losses)
    assert ("loss_bbox_o2m_pre" in losses) == (family != "rtdetr")
    assert ("loss_ddf_o2m_0" in losses) == (family in ("dfine", "deimv2", "ecdet"))
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    maps = model.encoder(model.backbone(torch.rand(1, 3, 64, 64)))
    model = randomize(model).eval()
    with torch.no_grad():
        groups, _ = model.decoder(maps)
        assert set(groups) == {"main"}
        assert groups["main"].logits.shape[2] == 20
        deployed, _ = to_deployment(model).decoder(maps)
    torch.testing.assert_close(deployed["main"].boxes, groups["main"].boxes)


@pytest.mark.parametrize("family", REAL_TIME)
def test_hybrid_branch_does_not_change_one_to_one_predictions(family: str) -> None:
    """The one-to-one losses equal those of a model without the branch."""
    samples, seed = batch([2, 3]), 3
    model = hybrid_model(family)
    torch.manual_seed(seed)
    losses = model(samples)
    without_branch = instantiate(recipe(REAL_TIME[family], *SMALL).model)
    without_branch.load_state_dict(model.state_dict())
    torch.manual_seed(seed)
    for name, value in without_branch(samples).items():
        torch.testing.assert_close(value, losses[name], rtol=1e-4, atol=1e-6, msg=name)


def test_hybrid_branch_is_limited_by_the_number_of_tokens() -> None:
    model = hybrid_model("dfine", num_queries=1000)
    losses = model(batch([2, 1]))  # 64 + 16 tokens
    assert torch.isfinite(sum(losses.values()))


def test_hybrid_branch_losses_equal_losses_with_repeated_targets() -> None:
    """As in H-DETR: one-to-one matching with a ground truth that repeats each object."""
    generator = torch.Generator().manual_seed(0)
    counts, repeats = [2, 3], 2
    labels = [torch.randint(4, (n,), generator=generator) for n in counts]
    boxes = [torch.rand(n, 4, generator=generator) * 0.4 + 0.2 for n in counts]
    group = Predictions(
        torch.randn(2, 2, 12, 4, generator=generator), torch.rand(2, 2, 12, 4, generator=generator) * 0.4 + 0.2
    )
    criterion_losses = {"loss_focal": FocalLoss(2.0), "loss_bbox": BoxL1Loss(5.0), "loss_giou": BoxGIoULoss(2.0)}

    def losses(supervision: Supervision, targets: Targets) -> dict:
        criterion = Criterion(4, [supervision], losses=criterion_losses, use_union=False)
        return criterion({supervision.group: group}, targets)

    actual = losses(Supervision("hybrid", "_{}", repeats=repeats, weight=0.5), Targets.collate(labels, boxes))
    repeated = Targets.collate([n.repeat(repeats) for n in labels], [b.repeat(repeats, 1) for b in boxes])
    expected = losses(Supervision("main", "_{}"), repeated)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], 0.5 * value, msg=name)


def test_terms_return_unweighted_losses_and_weights() -> None:
    group = Predictions(torch.randn(1, 1, 3, 4), torch.rand(1, 1, 3, 4) * 0.4 + 0.2)
    targets = Targets.collate([torch.tensor([1])], [torch.full((1, 4), 0.3)])
    supervision = Supervision("hybrid", "_{}", weight=0.25)
    criterion_losses = {"loss_focal": FocalLoss(2.0), "loss_bbox": BoxL1Loss(5.0), "loss_giou": BoxGIoULoss(3.0)}
    criterion = Criterion(4, [supervision], losses=criterion_losses, use_union=False)
    terms, losses = criterion.terms({"hybrid": group}, targets), criterion({"hybrid": group}, targets)
    assert {name: weight for name, (_, weight) in terms.items()} == {
        "loss_focal_0": 0.5,
        "loss_bbox_0": 1.25,
        "loss_giou_0": 0.75,
    }
    for name, (value, weight) in terms.items():
        torch.testing.assert_close(value * weight, losses[name], msg=name)


def test_hybrid_branch_combines_with_other_switches() -> None:
    config = with_hybrid_branch(with_deim_loss(recipe("dfine_n_coco").model), num_queries=500)
    model = instantiate(config)
    assert model.decoder.queries.num_one_to_many == 500
    assert [s.group for s in model.criterion.supervision if s.repeats == 6] == ["hybrid", "hybrid_initial"]


def test_invalid_hybrid_branches_are_rejected() -> None:
    with pytest.raises(ValueError, match="num_one_to_many must not be negative"):
        instantiate(with_hybrid_branch(recipe("dfine_n_coco").model, num_queries=-1))
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        instantiate(with_hybrid_branch(recipe("dfine_n_coco").model, repeats=0))
