"""A detector that several processes can train like one, but for rounding."""

import torch
from detectron2.layers import FrozenBatchNorm2d

from deim.modeling.detector import DEIMDetector


class ConstantBatchNorm2d(FrozenBatchNorm2d):
    """Frozen normalization that stays frozen when a run starts from a random backbone, which thaws FrozenBatchNorm2d."""


def frozen_detector(**arguments) -> DEIMDetector:
    """Build a detector without batch statistics and with sampling points inside pixels.

    Batch statistics differ between processes. A new model samples on the edges of pixels, where the slope of bilinear
    sampling jumps: rounding, which depends on the size of the batch, would choose a side.
    """
    model = FrozenBatchNorm2d.convert_frozen_batchnorm(DEIMDetector(**arguments))
    for module in model.modules():
        if type(module) is FrozenBatchNorm2d:
            module.__class__ = ConstantBatchNorm2d
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sampling_offsets.bias"):
                parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.3 + 0.1)
    return model
