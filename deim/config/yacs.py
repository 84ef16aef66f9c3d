"""Old-style (yacs) configs: this project's models as ``cfg.MODEL.META_ARCHITECTURE``.

    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from deim.config.yacs import add_deim_config

    cfg = get_cfg()
    add_deim_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "DEIMDetector"
    cfg.MODEL.DEIM.RECIPE = "deim_dfine/deim_dfine_s_coco"
    cfg.MODEL.DEIM.NUM_CLASSES = 20
    model = build_model(cfg)

``cfg.MODEL.BACKBONE.NAME`` selects a backbone of this project for other detectron2 models: ``"HGNetV2"``,
``"PResNet"``, ``"SpatialTuningAdapter"``, ``"build_vit"``, ``"build_swin"``, ``"build_timm"``, or ``"build_resnet"``,
which reads detectron2's keys.
"""

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from deim import modeling
from deim.config import model_zoo
from deim.config.building import build
from deim.modeling.backbone.yacs import yacs_nodes


def add_deim_config(cfg: CfgNode) -> None:
    """Add ``MODEL.DEIM`` and the keys of the backbones to ``cfg``.

    The nodes of the backbones are ``MODEL.HGNETV2``, ``MODEL.PRESNET``, ``MODEL.SWIN``, ``MODEL.VIT``,
    ``MODEL.SPATIAL_TUNING``, ``MODEL.ECVIT`` and ``MODEL.TIMM``, and those of a user's own backbones that are imported
    before and declare their keys (:func:`deim.modeling.backbone.yacs.yacs_keys`). The keys are the arguments of the backbone.
    """
    cfg.MODEL.DEIM = CfgNode()
    # name of a recipe in deim.config.model_zoo, which defines backbone, encoder, decoder and losses
    cfg.MODEL.DEIM.RECIPE = "deim_dfine/deim_dfine_l_coco"
    cfg.MODEL.DEIM.NUM_CLASSES = 80

    for node, keys in yacs_nodes().items():
        cfg.MODEL[node] = keys


@META_ARCH_REGISTRY.register()
class DEIMDetector(modeling.DEIMDetector):
    """A :class:`deim.modeling.DEIMDetector` configured by ``cfg.MODEL.DEIM``.

    The channel order of the images is ``cfg.INPUT.FORMAT``, as in detectron2's mappers. If ``cfg.MODEL.PIXEL_MEAN`` or
    ``PIXEL_STD`` differs from detectron2's default, it replaces the recipe's value; both are in the order of
    ``cfg.INPUT.FORMAT``.
    """

    def __init__(self, cfg: CfgNode):
        recipe = model_zoo.get_config(cfg.MODEL.DEIM.RECIPE)
        recipe.model.num_classes = cfg.MODEL.DEIM.NUM_CLASSES
        recipe.model.input_format = cfg.INPUT.FORMAT
        recipe.model.update(_pixel_statistics(cfg))
        super().__init__(**{name: build(recipe, f"model.{name}") for name in recipe.model if name != "_target_"})


def _pixel_statistics(cfg: CfgNode) -> dict[str, list[float]]:
    """Return ``pixel_mean`` and ``pixel_std`` in RGB order, as far as they differ from detectron2's defaults."""
    default = get_cfg().MODEL
    order = -1 if cfg.INPUT.FORMAT == "BGR" else 1
    return {
        name.lower(): list(cfg.MODEL[name])[::order]
        for name in ("PIXEL_MEAN", "PIXEL_STD")
        if list(cfg.MODEL[name]) != list(default[name])
    }
