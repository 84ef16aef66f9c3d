"""The criterion applies the listed losses, and rejects invalid arguments and groups."""

from unittest import mock

import pytest
import torch
from detectron2.config import LazyCall
from torch import Tensor, nn

from deim.errors import ConfigError
from deim.modeling.losses import BoxL1Loss, Criterion, FineGrainedLocalizationLoss, GroupLossInputs, Supervision
from deim.modeling.losses.assignment import assign
from deim.modeling.matching import HungarianMatcher
from deim.modeling.queries.denoising import DenoisingGroups
from deim.structures import PredictionGroup
from deim.structures.predictions import Predictions, Targets

MAIN = Supervision("main", "_{}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classification": "hinge"}, "unknown classification loss 'hinge'; choose one of mal, vfl, focal"),
        (
            {"weights": {"loss_mal": 1.0, "loss_vfl": 1.0}},
            "unknown losses loss_vfl; with classification='mal', choose from loss_mal",
        ),
        (
            {"classification": "vfl", "weights": {"loss_iou": 1.0}},
            "unknown losses loss_iou; with classification='vfl', choose from loss_vfl",
        ),
        ({"losses": {"loss_bbox": 5.0}}, r"losses.loss_bbox: 5\.0 is not a loss: a loss has the attribute `weight`"),
        ({"losses": {"loss_bbox": torch.abs}}, "losses.loss_bbox: .* is not a loss"),
        ({"losses": {"loss_bbox": LazyCall(BoxL1Loss)(gamma=1)}}, "losses.loss_bbox: .*unexpected keyword.*gamma"),
    ],
)
def test_invalid_losses_are_rejected(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Criterion(3, [MAIN], **options)


def test_unknown_arguments_are_rejected() -> None:
    with pytest.raises(TypeError, match="Criterion has no arguments losess"):
        Criterion(3, [MAIN], losess={})
    with pytest.raises(TypeError, match="gamma cannot be combined with losses"):
        Criterion(3, [MAIN], losses={"loss_bbox": BoxL1Loss()}, gamma=2.0)


class ParametricLoss(nn.Module):
    """Learnable factor times the sum of all scores of the main predictions."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight
        self.factor = nn.Parameter(torch.tensor(3.0))

    def forward(self, inputs: GroupLossInputs) -> Tensor | None:
        scores = inputs.predictions.logits.sigmoid()
        return self.factor * scores.sum(dim=(1, 2, 3)) if inputs.group is PredictionGroup.MAIN else None


def test_losses_select_groups_layers_and_order() -> None:
    """The criterion uses any object with a weight, in the order of the config, for the groups that it applies to."""
    torch.manual_seed(0)
    groups = {
        name: Predictions(torch.randn(2, 1, 3, 4), torch.rand(2, 1, 3, 4) * 0.5 + 0.2) for name in ("main", "hybrid")
    }
    targets = Targets.collate([torch.tensor([1])], [torch.full((1, 4), 0.3)])
    losses = {
        "loss_scores": LazyCall(ParametricLoss)(weight=0.5),
        "loss_fgl": FineGrainedLocalizationLoss(),
        "loss_bbox": BoxL1Loss(2.0),
        "loss_giou": None,
    }
    criterion = Criterion(4, [MAIN, Supervision("hybrid", "_o2m_{}", weight=0.25)], losses=losses, use_union=False)
    actual = criterion(groups, targets)
    assert list(actual) == [
        "loss_scores_0",
        "loss_scores_1",
        "loss_bbox_0",
        "loss_bbox_1",
        "loss_bbox_o2m_0",
        "loss_bbox_o2m_1",
    ]
    expected = 0.5 * 3 * groups["main"].logits[1].sigmoid().sum()
    torch.testing.assert_close(actual["loss_scores_1"], expected)
    assert [name for name, _ in criterion.named_parameters()] == ["loss_modules.loss_scores.factor"]
    assert not Criterion(4, [MAIN], losses={"loss_fgl": FineGrainedLocalizationLoss()})(
        {"main": groups["main"]}, targets
    )


def test_supervised_group_without_predictions_is_rejected() -> None:
    criterion = Criterion(3, [MAIN, Supervision("hybrid", "_o2m_{}"), Supervision("denoising", "_dn", denoising=True)])
    predictions = {"main": Predictions(torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2, 4), 0.5))}
    with pytest.raises(ConfigError, match="names hybrid, but the decoder predicts only main"):
        criterion(predictions, Targets.collate([torch.zeros(0).long()], [torch.zeros(0, 4)]))


def test_denoising_is_normalized_by_the_groups_of_the_own_rank() -> None:
    """The official code multiplies the mean number of objects of all ranks by the number of groups of the rank."""
    supervision = [MAIN, Supervision("denoising", "_dn", denoising=True)]

    def normalizers(objects: int, num_groups: int, other_counts: Tensor | None) -> tuple[list[float], Tensor]:
        """Return the normalizers of one of two ranks, and its counts; the other rank sends ``other_counts``."""
        targets = Targets.collate([torch.zeros(objects).long()], [torch.full((objects, 4), 0.5)])
        denoising = DenoisingGroups(num_groups=num_groups, group_size=2 * objects)
        predictions = [
            Predictions(torch.zeros(1, 1, queries, 3), torch.full((1, 1, queries, 4), 0.5))
            for queries in (20, len(denoising))
        ]
        sent = []

        def all_reduce(counts: Tensor) -> None:
            sent.append(counts.clone())
            counts += torch.zeros_like(counts) if other_counts is None else other_counts

        with (
            mock.patch("detectron2.utils.comm.get_world_size", return_value=2),
            mock.patch("torch.distributed.all_reduce", all_reduce),
        ):
            assignments = assign(supervision, predictions, targets, denoising, HungarianMatcher(), use_union=False)
        return [float(a.classification.normalizer) for a in assignments], sent[0]

    _, first_counts = normalizers(6, 2, None)
    actual, second_counts = normalizers(2, 5, first_counts)
    assert actual == [4, 4 * 5]
    assert normalizers(6, 2, second_counts)[0] == [4, 4 * 2]
