"""Detection of class-agnostic proposals for criteria that cannot be called."""

import pytest
from detectron2.config import LazyCall
from omegaconf import OmegaConf

from deim.config.detrex import proposals_are_class_agnostic
from deim.errors import ConfigError


class FailingCriterion:
    num_classes = 2

    def get_loss(self) -> None: ...

    def __call__(self, outputs: dict, targets: list) -> dict:
        raise RuntimeError("needs a GPU")


def model_with(**keys: object):
    return OmegaConf.create({"criterion": LazyCall(FailingCriterion)(), **keys}, flags={"allow_objects": True})


def test_a_model_with_one_stage_has_no_proposals() -> None:
    transformer = {"as_two_stage": "${..as_two_stage}", "two_stage_num_proposals": 300}
    assert not proposals_are_class_agnostic(model_with(as_two_stage=False, transformer=transformer))


@pytest.mark.parametrize("keys", [{"as_two_stage": True}, {"transformer": {"two_stage_num_proposals": 900}}])
def test_a_model_with_two_stages_needs_a_criterion_that_can_be_called(keys: dict) -> None:
    with pytest.raises(ConfigError, match=r"needs a GPU.*pass class_agnostic_proposals"):
        proposals_are_class_agnostic(model_with(**keys))
