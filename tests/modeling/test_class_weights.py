"""Weights of the classes in the classification losses."""

import pytest
import torch

from deim.modeling.losses import FocalLoss, MatchabilityAwareLoss, VarifocalLoss
from tests.models import batch, tiny_model


class Trial:
    """Losses of a model for one batch, with different class weights; classes 0 to 5."""

    def __init__(self, name: str, family: str):
        self.model, self.name = tiny_model(family=family), name
        self.batch = batch([3, 2])

    def losses(self, class_weights: list[float] | None) -> dict[str, float]:
        self.model.criterion.losses[self.name].class_weights = class_weights
        torch.manual_seed(0)
        return {name: value.item() for name, value in self.model(self.batch).items()}


@pytest.mark.parametrize(("family", "name"), [("deimv2_lite", "loss_mal"), ("deformable", "loss_focal")])
def test_weights_scale_the_loss_of_their_class(family: str, name: str) -> None:
    trial = Trial(name, family)
    agnostic = tuple(
        name + supervision.suffix.partition("{")[0]
        for supervision in trial.model.criterion.supervision
        if supervision.class_agnostic
    )
    plain, doubled = trial.losses(None), trial.losses([2] * 6)
    assert trial.losses([1] * 6) == pytest.approx(plain)
    parts = [trial.losses(weights) for weights in ([1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1])]
    for loss, value in plain.items():
        is_weighted = loss.startswith(name) and not loss.startswith(agnostic)
        assert doubled[loss] == pytest.approx(2 * value if is_weighted else value, rel=1e-5)
        if is_weighted:
            assert sum(part[loss] for part in parts) == pytest.approx(value, rel=1e-5)


def test_class_agnostic_groups_ignore_the_weights() -> None:
    trial = Trial("loss_focal", "hybrid")
    plain, zero = trial.losses(None), trial.losses([0] * 6)
    encoder = [name for name in plain if name.startswith("loss_focal_enc")]
    assert encoder
    for name in encoder:
        assert zero[name] == plain[name] > 0
    assert zero["loss_focal"] == 0


def test_weights_are_an_argument_of_the_recipe() -> None:
    model = tiny_model("+model.criterion.losses.loss_mal.class_weights=[1,1,1,2,2,4]", family="deimv2_lite")
    assert model.criterion.losses["loss_mal"].class_weights == [1, 1, 1, 2, 2, 4]


def test_other_number_of_weights_than_classes_is_an_error() -> None:
    with pytest.raises(Exception, match=r"losses\.loss_mal\.class_weights has 2 numbers for 6 classes"):
        tiny_model("+model.criterion.losses.loss_mal.class_weights=[1,2]", family="deimv2_lite")


@pytest.mark.parametrize("loss", [FocalLoss, MatchabilityAwareLoss, VarifocalLoss])
def test_negative_weights_are_errors(loss) -> None:
    assert loss(class_weights=(1, 2)).class_weights == [1.0, 2.0]
    with pytest.raises(ValueError, match="at least 0"):
        loss(class_weights=[1, -1])
