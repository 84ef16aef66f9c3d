"""Every ECDet model (ecdetseg/configs/ecdet of the official code)."""

from typing import Any

import torch
from detectron2.config import instantiate
from torch import nn

from tests.models import recipe

# Parameters of backbone, encoder and decoder in the official build, and of the whole model in deployment form.
PARAMETERS = {
    "s": (5_594_712, 1_367_360, 2_922_030, 9_811_307),
    "m": (9_932_064, 3_802_368, 5_697_070, 19_206_907),
    "l": (22_463_664, 4_805_376, 5_697_070, 32_664_859),
    "x": (29_550_768, 12_592_896, 7_798_318, 48_968_731),
}
MODELS = tuple(PARAMETERS)


def model_config(name: str) -> Any:
    """Return the LazyConfig node of a model, without pretrained weights."""
    return recipe(f"ecdet_{name}_coco").model


def build_model(name: str) -> nn.Module:
    """Return a model on the meta device."""
    with torch.device("meta"):
        return instantiate(model_config(name))
