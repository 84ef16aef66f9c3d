"""timm models as backbones, by name."""

from collections.abc import Sequence

from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from deim.modeling.backbone.yacs import yacs_keys


@BACKBONE_REGISTRY.register()
@yacs_keys("TIMM", name="resnet50", out_indices=(2, 3, 4))
def build_timm(name: str, out_indices: Sequence[int] = (1, 2, 3), pretrained: bool = False) -> Backbone:
    """Build detrex's ``TimmBackbone`` with features "p<index>", where the index is timm's index of the stage.

    Args:
        name: model name, such as "convnext_tiny"; see ``timm.list_models()``.
        out_indices: indices of the stages. The default has strides 8, 16 and 32 in models with four stages.
            Models with a feature at stride 2, such as "resnet50", need (2, 3, 4).
        pretrained: load the weights that timm downloads.

    Raises:
        RuntimeError: if timm is not installed, or does not have the model.
    """
    # Imported here because the module of an installed detrex imports half of detrex.
    from detrex.modeling.backbone import TimmBackbone

    return TimmBackbone(name, pretrained=pretrained, out_indices=tuple(out_indices))
