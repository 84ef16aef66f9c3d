"""Number of parameters and multiply-adds of each part of a model."""

import logging

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from deim.benchmarks.latency import Network
from deim.benchmarks.timing import report
from deim.config import build, load_config
from deim.inference import reparameterized

PARTS = ("backbone", "encoder", "decoder")


def run(recipe: str, size: int, path: str | None) -> None:
    """Print the parameters in training and deployed form, and the multiply-adds for one image, of each part.

    fvcore counts a multiply-add as one operation.
    """
    model = build(load_config(recipe), "model")
    deployed = reparameterized(model)
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(
        logging.ERROR
    )  # hides warnings about operators that are not counted
    analysis = FlopCountAnalysis(Network(deployed).eval(), torch.zeros(1, 3, size, size))
    operations = analysis.by_module()
    rows = [
        {
            "recipe": recipe,
            "part": part or "whole",
            "M parameters": _millions(model, part),
            "M deployed": _millions(deployed, part),
            "G multiply-adds": operations[part] / 1e9,
        }
        for part in ("", *PARTS)
    ]
    report(rows, path, torch.device("cpu"))


def _millions(model: nn.Module, part: str) -> float:
    return sum(parameter.numel() for parameter in model.get_submodule(part).parameters()) / 1e6
