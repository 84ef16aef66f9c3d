"""Registry of backbones, for yacs configs."""

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")


def build_backbone(cfg, input_shape=None) -> Backbone:
    """Build the backbone named by ``cfg.MODEL.BACKBONE.NAME``.

    Args:
        cfg: a yacs config.
        input_shape: ShapeSpec of the images; by default with one channel per value of ``cfg.MODEL.PIXEL_MEAN``.

    Raises:
        AssertionError: if the registered function does not return a Backbone.
        KeyError: if the name is not registered.
    """
    shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)) if input_shape is None else input_shape
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, shape)
    if not isinstance(backbone, Backbone):
        raise AssertionError(f"{cfg.MODEL.BACKBONE.NAME} must return a Backbone, got {type(backbone)}")
    return backbone
