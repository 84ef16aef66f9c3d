"""Weights of the classes in the classification losses."""

import pytest
import torch

from deim.modeling.losses import FocalLoss, MatchabilityAwareLoss, VarifocalLoss
from tests.models import batch, tiny_model


def losses(*overrides: str, family: str = "deimv2_lite") -> dict[str, float]:
    """Return the losses of a step; classes 0 to 5."""
    model = tiny_model(*overrides, family=family)
    torch.manual_seed(0)
    return {name: value.item() for name, value in model(batch([3, 2])).items()}


@pytest.mark.parametrize(("family", "name"), [("deimv2_lite", "loss_mal"), ("deformable", "loss_focal")])
def test_weights_scale_the_loss_of_their_class(family: str, name: str) -> None:
    key = f"+model.criterion.losses.{name}.class_weights"
    plain = losses(family=family)
    assert losses(f"{key}=[1,1,1,1,1,1]", family=family) == pytest.approx(plain)
    doubled = losses(f"{key}=[2,2,2,2,2,2]", family=family)
    parts = [losses(f"{key}={[int(i == k) for i in range(6)]}", family=family) for k in range(6)]
    for loss, value in plain.items():
        if loss.startswith(name) and "_enc" not in loss:
            assert doubled[loss] == pytest.approx(2 * value, rel=1e-5)
            assert sum(part[loss] for part in parts) == pytest.approx(value, rel=1e-5)
        elif not loss.startswith(name):
            assert doubled[loss] == pytest.approx(value, rel=1e-6)


def test_class_agnostic_groups_ignore_the_weights() -> None:
    two_stage = {"family": "hybrid"}
    plain = losses(**two_stage)
    zero = losses("+model.criterion.losses.loss_focal.class_weights=[0,0,0,0,0,0]", **two_stage)
    encoder = [name for name in plain if name.startswith("loss_focal_enc")]
    assert encoder
    for name in encoder:
        assert zero[name] == plain[name] > 0
    assert zero["loss_focal"] == 0


def test_other_number_of_weights_than_classes_is_an_error() -> None:
    with pytest.raises(Exception, match=r"losses\.loss_mal\.class_weights has 2 numbers for 6 classes"):
        tiny_model("+model.criterion.losses.loss_mal.class_weights=[1,2]", family="deimv2_lite")


@pytest.mark.parametrize("loss", [FocalLoss, MatchabilityAwareLoss, VarifocalLoss])
def test_negative_weights_are_errors(loss) -> None:
    assert loss(class_weights=(1, 2)).class_weights == [1.0, 2.0]
    with pytest.raises(ValueError, match="at least 0"):
        loss(class_weights=[1, -1])
