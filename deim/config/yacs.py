"""Old-style (yacs) configs: naming this project's models in ``cfg.MODEL.META_ARCHITECTURE``.

    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from deim.config.yacs import add_deim_config

    cfg = get_cfg()
    add_deim_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "DEIMDetector"
    cfg.MODEL.DEIM.RECIPE = "deim_dfine/deim_dfine_s_coco"
    cfg.MODEL.DEIM.NUM_CLASSES = 20
    model = build_model(cfg)

``cfg.MODEL.BACKBONE.NAME = "HGNetV2"`` or ``"PResNet"`` gives the backbone to other models of detectron2.
"""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from deim import modeling
from deim.config import model_zoo
from deim.config.building import build


def add_deim_config(cfg: CfgNode) -> None:
    """Add ``MODEL.DEIM``, ``MODEL.HGNETV2`` and ``MODEL.PRESNET`` with their defaults, in place."""
    cfg.MODEL.DEIM = CfgNode()
    # a recipe of deim.model_zoo, which describes backbone, encoder, decoder and losses
    cfg.MODEL.DEIM.RECIPE = "deim_dfine/deim_dfine_l_coco"
    cfg.MODEL.DEIM.NUM_CLASSES = 80

    cfg.MODEL.HGNETV2 = CfgNode()
    cfg.MODEL.HGNETV2.NAME = "B0"
    cfg.MODEL.HGNETV2.LEARNABLE_AFFINE = True
    cfg.MODEL.HGNETV2.OUT_FEATURES = ["stage2", "stage3", "stage4"]
    cfg.MODEL.HGNETV2.FREEZE_NORM = False

    cfg.MODEL.PRESNET = CfgNode()
    cfg.MODEL.PRESNET.DEPTH = 50
    cfg.MODEL.PRESNET.OUT_FEATURES = ["stage2", "stage3", "stage4"]
    cfg.MODEL.PRESNET.FREEZE_NORM = False
    cfg.MODEL.PRESNET.WEIGHTS = ""


@META_ARCH_REGISTRY.register()
class DEIMDetector(modeling.DEIMDetector):
    """:class:`deim.modeling.DEIMDetector` as ``cfg.MODEL.DEIM`` describes it."""

    def __init__(self, cfg: CfgNode):
        recipe = model_zoo.get_config(cfg.MODEL.DEIM.RECIPE)
        recipe.model.num_classes = cfg.MODEL.DEIM.NUM_CLASSES
        super().__init__(**{name: build(recipe, f"model.{name}") for name in recipe.model if name != "_target_"})
