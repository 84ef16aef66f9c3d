"""Number of parameters and operations of each part of a model."""

import logging
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from deim.config import build, load_config
from deim.inference import deployment_form
from deim.measurement.latency import Network
from deim.measurement.timing import print_report

PARTS = ("backbone", "encoder", "decoder")


def run(recipe: str, size: tuple[int, int], path: str | None) -> None:
    """Print the number of parameters and of operations of each part of a recipe's model.

    Args:
        recipe: name of the recipe.
        size: height and width of the image in pixels.
        path: JSON file for the results; if None, no file is written.
    """
    print_report(count(recipe, size), path, torch.device("cpu"))


def count(recipe: str, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Count the parameters in training and deployed form, and the operations for one image.

    fvcore counts convolutions, matrix products, normalization and interpolation. A multiply-add is counted as two
    operations.

    Returns:
        One row for the whole model and one for each part.
    """
    model = build(load_config(recipe), "model")
    deployed = deployment_form(model)
    # hides warnings about operators that are not counted
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(Network(deployed).eval(), torch.zeros(1, 3, *size))
    operations = analysis.by_module()
    return [
        {
            "recipe": recipe,
            "part": part or "whole",
            "M parameters": _millions_of_parameters(model, part),
            "M deployed": _millions_of_parameters(deployed, part),
            "GFLOPs": 2 * operations[part] / 1e9,
        }
        for part in ("", *PARTS)
    ]


def _millions_of_parameters(model: nn.Module, part: str) -> float:
    return sum(parameter.numel() for parameter in model.get_submodule(part).parameters()) / 1e6
