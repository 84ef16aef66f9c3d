"""Backbones, each also in detectron2's ``BACKBONE_REGISTRY``."""

from deim.modeling.backbone.hgnetv2 import HGNetV2
from deim.modeling.backbone.presnet import PResNet

__all__ = ["HGNetV2", "PResNet"]
