"""Random weights with which no layer is without effect, unlike those of a new model."""

import torch
from torch import nn


@torch.no_grad()
def perturb(model: nn.Module, prefixes: tuple[str, ...] = ("",)) -> None:
    """Add noise to the parameters, since some layers start near zero, and set random batch-norm statistics.

    Args:
        prefixes: beginnings of the names of the parameters; by default all.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.startswith(prefixes):
            parameter.add_(torch.randn_like(parameter) * 0.02)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
