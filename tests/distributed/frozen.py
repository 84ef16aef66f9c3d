"""Detector for comparing runs of several ranks with runs of one rank: their losses differ only by rounding."""

import torch
from detectron2.layers import FrozenBatchNorm2d

from deim.modeling.detector import DEIMDetector
from deim.modeling.losses import MaskPointSampler
from deim.modeling.matching import MaskCost


class ConstantBatchNorm2d(FrozenBatchNorm2d):
    """Frozen normalization that stays frozen in runs from random weights, which unfreeze modules named FrozenBatchNorm2d."""


def frozen_detector(**arguments) -> DEIMDetector:
    """Build a detector without batch statistics and with sampling points inside pixels.

    Batch statistics differ between ranks. A new model samples exactly on the edges of pixels, where the gradient of
    bilinear sampling is discontinuous. Rounding, which depends on the batch size, would decide which gradient is used.
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


class FixedMaskPointSampler(MaskPointSampler):
    """Sampler with the same candidates for every mask, on any number of ranks."""

    def draw(self, num_masks: int, num_points: int, like: torch.Tensor) -> torch.Tensor:
        return _fixed_points(num_points, like).expand(num_masks, -1, -1)


class FixedMaskCost(MaskCost):
    """Matching cost of masks at the same points on any number of ranks."""

    def draw(self, num_points: int, like: torch.Tensor) -> torch.Tensor:
        return _fixed_points(num_points, like)


def _fixed_points(num_points: int, like: torch.Tensor) -> torch.Tensor:
    return torch.rand(num_points, 2, generator=torch.Generator().manual_seed(0)).to(like)


def double_precision_detector(**arguments) -> DEIMDetector:
    """Build :func:`frozen_detector` in float64.

    In float32, rounding may change the order of two tokens with nearly equal scores, and so the selected queries.
    """
    model = frozen_detector(**arguments).double()
    torch.set_default_dtype(torch.float64)
    return model
