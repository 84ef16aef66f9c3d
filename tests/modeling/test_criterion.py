"""The criterion rejects invalid arguments and groups."""

import pytest
import torch

from deim.errors import ConfigError
from deim.modeling.losses import Criterion, Supervision
from deim.modeling.queries import LearnedQueries
from deim.structures.predictions import Predictions, Targets

MAIN = Supervision("main", "_{}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classification": "hinge"}, "Unknown classification loss 'hinge'; choose one of .*mal"),
        (
            {"weights": {"loss_mal": 1.0, "loss_vfl": 1.0}},
            "unknown losses loss_vfl; with classification='mal', choose from loss_mal",
        ),
        (
            {"classification": "vfl", "weights": {"loss_iou": 1.0}},
            "unknown losses loss_iou; with classification='vfl', choose from loss_vfl",
        ),
    ],
)
def test_unknown_losses_are_rejected(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Criterion(3, [MAIN], **options)


def test_supervised_group_without_predictions_is_rejected() -> None:
    criterion = Criterion(3, [MAIN, Supervision("hybrid", "_o2m_{}"), Supervision("denoising", "_dn", denoising=True)])
    predictions = {"main": Predictions(torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2, 4), 0.5))}
    with pytest.raises(ConfigError, match="names hybrid, but the decoder predicts only main"):
        criterion(predictions, Targets.collate([torch.zeros(0).long()], [torch.zeros(0, 4)]))


def test_criterion_supports_one_query() -> None:
    assert LearnedQueries(8, num_queries=1).num_one_to_many == 0
    with pytest.raises(ValueError, match="num_queries must be at least 1, got 0"):
        LearnedQueries(8, num_queries=0)
