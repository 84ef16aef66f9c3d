"""Backbones of this package and of other libraries, registered in detectron2's ``BACKBONE_REGISTRY``."""

from deim.modeling.backbone.ecvit import ECViT
from deim.modeling.backbone.hgnetv2 import HGNetV2
from deim.modeling.backbone.presnet import PResNet
from deim.modeling.backbone.resnet import build_resnet
from deim.modeling.backbone.spatial_tuning import SpatialTuningAdapter
from deim.modeling.backbone.swin import build_swin
from deim.modeling.backbone.timm import build_timm
from deim.modeling.backbone.vit import VisionTransformer, build_vit

__all__ = [
    "ECViT",
    "HGNetV2",
    "PResNet",
    "SpatialTuningAdapter",
    "VisionTransformer",
    "build_resnet",
    "build_swin",
    "build_timm",
    "build_vit",
]
