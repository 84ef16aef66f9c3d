"""A trained model in the form in which it is shipped."""

import copy

from torch import nn

from deim.checkpoint.loading import reparameterize


def to_deployment(model: nn.Module) -> nn.Module:
    """A copy in eval mode without what inference never uses and with its convolutions re-parameterised.

    Detections stay the same up to rounding; the copy cannot be trained.
    """
    deployed = copy.deepcopy(model).eval()
    reparameterize(deployed)
    return deployed
