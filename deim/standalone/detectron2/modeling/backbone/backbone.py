"""The interface of backbones and the registry that old-style configs name them from."""

from abc import ABCMeta, abstractmethod

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

BACKBONE_REGISTRY = Registry("BACKBONE")


class Backbone(nn.Module, metaclass=ABCMeta):
    """Maps an image batch to named feature maps.

    A subclass sets ``_out_features``, ``_out_feature_channels`` and ``_out_feature_strides``.
    """

    @abstractmethod
    def forward(self, x):
        """(N, 3, H, W) -> {name: (N, C, h, w)}."""

    @property
    def size_divisibility(self) -> int:
        return 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def build_backbone(cfg, input_shape=None) -> Backbone:
    """The backbone that ``cfg.MODEL.BACKBONE.NAME`` names."""
    shape = input_shape if input_shape is not None else ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, shape)
