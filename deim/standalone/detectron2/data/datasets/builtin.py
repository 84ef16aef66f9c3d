"""COCO 2017 under ``$DETECTRON2_DATASETS`` (default ``./datasets``)."""

import os

from .coco import register_coco_instances

_ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))

for _split in ("train", "val"):
    register_coco_instances(
        f"coco_2017_{_split}",
        {},
        os.path.join(_ROOT, f"coco/annotations/instances_{_split}2017.json"),
        os.path.join(_ROOT, f"coco/{_split}2017"),
    )
