"""COCO 2017 under ``$DETECTRON2_DATASETS`` (default ``./datasets``)."""

import os

from .builtin_meta import _coco_metadata
from .coco import register_coco_instances

_ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))

for _split in ("train", "val"):
    register_coco_instances(
        f"coco_2017_{_split}",
        _coco_metadata(),
        os.path.join(_ROOT, f"coco/annotations/instances_{_split}2017.json"),
        os.path.join(_ROOT, f"coco/{_split}2017"),
    )
