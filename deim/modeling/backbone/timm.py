"""Any model of timm that returns features, by name."""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone


def _from_config(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
    """Arguments from an old-style config; see :func:`deim.config.yacs.add_deim_config`."""
    options = cfg.MODEL.TIMM
    return {"name": options.NAME, "out_indices": options.OUT_INDICES, "pretrained": options.PRETRAINED}


@BACKBONE_REGISTRY.register()
@configurable(from_config=_from_config)
def build_timm(name: str, out_indices: Sequence[int] = (1, 2, 3), pretrained: bool = False) -> Backbone:
    """detrex's ``TimmBackbone``: features "p<index>" of the indices that timm counts a model's stages by.

    Args:
        name: of the model, such as "convnext_tiny"; ``timm.list_models()`` knows them.
        out_indices: of the stages; the last three of four are at strides 8, 16 and 32 in most models.
        pretrained: with the weights that timm downloads.

    Raises:
        RuntimeError: timm is not installed, or does not know the model.
    """
    # Here, since the real one brings half of detrex with it.
    from detrex.modeling.backbone import TimmBackbone

    return TimmBackbone(name, pretrained=pretrained, out_indices=tuple(out_indices))
