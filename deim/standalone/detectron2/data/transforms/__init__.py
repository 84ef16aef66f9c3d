from fvcore.transforms.transform import HFlipTransform, NoOpTransform, Transform, TransformList

from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import RandomFlip, Resize, ResizeShortestEdge
from .transform import ResizeTransform

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "HFlipTransform",
    "NoOpTransform",
    "RandomFlip",
    "Resize",
    "ResizeShortestEdge",
    "ResizeTransform",
    "Transform",
    "TransformList",
]
