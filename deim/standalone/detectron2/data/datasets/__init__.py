from . import builtin
from .coco import load_coco_json, register_coco_instances

__all__ = ["builtin", "load_coco_json", "register_coco_instances"]
