"""Backbones, each also in detectron2's ``BACKBONE_REGISTRY``."""

from deim.backbone.hgnetv2 import HGNetV2

__all__ = ["HGNetV2"]
