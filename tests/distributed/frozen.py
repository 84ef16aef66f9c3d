"""A detector that several processes can train like one, but for rounding."""

import torch
from detectron2.layers import FrozenBatchNorm2d

from deim.modeling.detector import DEIMDetector


def frozen_detector(**arguments) -> DEIMDetector:
    """Without batch statistics, which differ between processes; and with sampling points that do not lie on the edges of
    pixels, where they begin: the slope of bilinear sampling jumps there, and rounding, which depends on the size of the
    batch, would choose one side."""
    model = FrozenBatchNorm2d.convert_frozen_batchnorm(DEIMDetector(**arguments))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sampling_offsets.bias"):
                parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.3 + 0.1)
    return model
