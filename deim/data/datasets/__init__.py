"""Readers that convert datasets of various formats to detectron2 records."""

from deim.data.datasets.coco import coco_dataset, register_coco
from deim.data.datasets.crowdhuman import crowdhuman_dataset
from deim.data.datasets.voc import voc_dataset
from deim.data.datasets.yolo import yolo_dataset

__all__ = ["coco_dataset", "crowdhuman_dataset", "register_coco", "voc_dataset", "yolo_dataset"]
