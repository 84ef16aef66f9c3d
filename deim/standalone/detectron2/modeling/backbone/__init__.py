from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .resnet import BasicStem, BottleneckBlock, ResNet, make_stage
from .swin import SwinTransformer

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "BasicStem",
    "BottleneckBlock",
    "ResNet",
    "SwinTransformer",
    "build_backbone",
    "make_stage",
]
