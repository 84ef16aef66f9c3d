"""The interface of backbones."""

from abc import ABCMeta, abstractmethod

from detectron2.layers import ShapeSpec
from torch import nn

__all__ = ["Backbone"]


class Backbone(nn.Module, metaclass=ABCMeta):
    """Maps a batch of images to named feature maps.

    A subclass sets ``_out_features``, ``_out_feature_channels`` and ``_out_feature_strides``.
    """

    def __init__(self):
        super().__init__()

    @abstractmethod
    def forward(self, x):
        """Return the feature maps, each of shape (N, C, h, w), by their names.

        Args:
            x: images of shape (N, 3, H, W).
        """

    @property
    def size_divisibility(self) -> int:
        """The number of which height and width of the images must be a multiple; 0 for any size."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What ``ImageList.from_tensors`` takes as its argument of this name."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
