"""COCO 2017, objects and person keypoints, under ``$DETECTRON2_DATASETS`` (default ``./datasets``)."""

import os

from .builtin_meta import _coco_metadata, _coco_person_metadata
from .coco import register_coco_instances

_ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))

for _split in ("train", "val"):
    for _prefix, _file, _metadata in (
        ("", "instances", _coco_metadata()),
        ("keypoints_", "person_keypoints", _coco_person_metadata()),
    ):
        register_coco_instances(
            f"{_prefix}coco_2017_{_split}",
            _metadata,
            os.path.join(_ROOT, f"coco/annotations/{_file}_{_split}2017.json"),
            os.path.join(_ROOT, f"coco/{_split}2017"),
        )
