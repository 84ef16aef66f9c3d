from . import datasets
from .build import build_detection_test_loader, get_detection_dataset_dicts
from .catalog import DatasetCatalog, MetadataCatalog

__all__ = [
    "DatasetCatalog",
    "MetadataCatalog",
    "build_detection_test_loader",
    "datasets",
    "get_detection_dataset_dicts",
]
