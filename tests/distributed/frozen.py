"""A detector without batch statistics, which differ between processes."""

from detectron2.layers import FrozenBatchNorm2d

from deim.modeling.detector import DEIMDetector


def frozen_detector(**arguments) -> DEIMDetector:
    return FrozenBatchNorm2d.convert_frozen_batchnorm(DEIMDetector(**arguments))
