"""Every ECPose model (ecpose/configs/ecpose of the official code)."""

from typing import Any

import torch
from detectron2.config import instantiate
from torch import nn

from tests.models import recipe

# Number of scores in the official code, whose labels are the category ids of COCO: 0 is unused, 1 is a person.
OFFICIAL_CLASSES = 2
# Parameters of backbone, encoder and decoder in the official build.
PARAMETERS = {
    "s": (5_594_712, 1_367_360, 3_027_799),
    "m": (9_932_064, 3_802_368, 6_247_100),
    "l": (22_463_664, 4_805_376, 7_297_724),
    "x": (29_550_768, 12_592_896, 9_398_972),
}
MODELS = tuple(PARAMETERS)


def build_model(name: str, num_classes: int = OFFICIAL_CLASSES) -> nn.Module:
    """Return a model on the meta device."""
    config: Any = recipe(f"ecpose_{name}_coco").model
    config.num_classes = num_classes
    with torch.device("meta"):
        return instantiate(config)
