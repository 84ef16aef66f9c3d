"""The interface of backbones."""

from abc import ABCMeta, abstractmethod

from detectron2.layers import ShapeSpec
from torch import nn

__all__ = ["Backbone"]


class Backbone(nn.Module, metaclass=ABCMeta):
    """Base class of backbones, which map a batch of images to named feature maps.

    A subclass sets ``_out_features``, ``_out_feature_channels`` and ``_out_feature_strides``.
    """

    def __init__(self):
        super().__init__()

    @abstractmethod
    def forward(self, x):
        """Return {name: feature map of shape (N, C, h, w)}.

        Args:
            x: images of shape (N, 3, H, W).
        """

    @property
    def size_divisibility(self) -> int:
        """Required divisor of the image height and width; 0 allows any size."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Value of the argument ``padding_constraints`` of ``ImageList.from_tensors``."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return the channels and stride of each feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
