"""timm models as backbones, by name."""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone


def _from_config(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
    """Return the arguments from an old-style config; see :func:`deim.config.yacs.add_deim_config`."""
    options = cfg.MODEL.TIMM
    return {"name": options.NAME, "out_indices": options.OUT_INDICES, "pretrained": options.PRETRAINED}


@BACKBONE_REGISTRY.register()
@configurable(from_config=_from_config)
def build_timm(name: str, out_indices: Sequence[int] = (1, 2, 3), pretrained: bool = False) -> Backbone:
    """Build detrex's ``TimmBackbone`` with features "p<index>", where the index is timm's index of the stage.

    Args:
        name: model name, such as "convnext_tiny"; see ``timm.list_models()``.
        out_indices: indices of the stages; the last three of four are at strides 8, 16 and 32 in most models.
        pretrained: load the weights that timm downloads.

    Raises:
        RuntimeError: if timm is not installed, or does not have the model.
    """
    # Imported here because the real module imports half of detrex.
    from detrex.modeling.backbone import TimmBackbone

    return TimmBackbone(name, pretrained=pretrained, out_indices=tuple(out_indices))
