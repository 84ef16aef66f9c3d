"""Data sets of various formats as detectron2 records."""

from deim.data.datasets.coco import coco_dataset, register_coco

__all__ = ["coco_dataset", "register_coco"]
