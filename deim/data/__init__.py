"""Data pipeline: datasets, augmentation and data loaders."""

from deim.data.datasets import coco_dataset, crowdhuman_dataset, register_coco, voc_dataset, yolo_dataset
from deim.data.loader import build_test_loader, build_train_loader
from deim.data.mapper import DetectionMapper

__all__ = [
    "DetectionMapper",
    "build_test_loader",
    "build_train_loader",
    "coco_dataset",
    "crowdhuman_dataset",
    "register_coco",
    "voc_dataset",
    "yolo_dataset",
]
