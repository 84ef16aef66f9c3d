"""Backbones, each also in detectron2's ``BACKBONE_REGISTRY``."""

from deim.backbone.hgnetv2 import HGNetV2
from deim.backbone.presnet import PResNet

__all__ = ["HGNetV2", "PResNet"]
