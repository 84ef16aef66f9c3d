"""Every DEIMv2 model (configs/deimv2 of the official code)."""

from typing import Any

import torch
from detectron2.config import instantiate
from torch import nn

from tests.models import recipe

# Parameters of backbone, encoder and decoder in the official build, and of the whole model in deployment form. The
# official code has a mask token of 384 parameters in the backbones of L and X, which only pretraining uses.
PARAMETERS = {
    "dinov3_x": (30_119_360 - 384, 11_192_064, 9_900_312, 50_260_163 - 384),
    "dinov3_l": (22_173_408 - 384, 5_147_296, 5_230_510, 32_178_043 - 384),
    "dinov3_m": (9_974_032, 4_002_488, 4_381_230, 18_106_355),
    "dinov3_s": (5_689_360, 1_367_360, 2_723_118, 9_707_403),
    "hgnetv2_x": (33_231_840, 16_863_104, 10_196_760, 59_273_315),
    "hgnetv2_l": (13_553_376, 7_637_248, 9_900_312, 30_572_003),
    "hgnetv2_m": (6_026_626, 6_093_056, 6_746_670, 18_525_501),
    "hgnetv2_s": (1_850_396, 3_431_168, 5_169_849, 10_367_027),
    "hgnetv2_n": (1_850_396, 638_288, 1_111_737, 3_571_527),
    "hgnetv2_pico": (749_202, 258_976, 531_361, 1_514_285),
    "hgnetv2_femto": (389_832, 196_352, 397_761, 962_311),
    "hgnetv2_atto": (230_344, 80_400, 198_241, 494_159),
}
MODELS = tuple(PARAMETERS)


def model_config(name: str) -> Any:
    """Return the LazyConfig node of a model, without pretrained weights."""
    return recipe(f"deimv2_{name}_coco").model


def build_model(name: str) -> nn.Module:
    """Return a model on the meta device."""
    with torch.device("meta"):
        return instantiate(model_config(name))
