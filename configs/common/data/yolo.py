"""Dataset with a YOLO ``data.yaml``, as exported by Ultralytics and Roboflow."""

from detectron2.config import LazyCall as L

from deim.data import yolo_dataset

datasets = dict(
    # number of names in data.yaml
    num_classes=80,
    train=L(yolo_dataset)(names="yolo_train", data_file="datasets/yolo/data.yaml", split="train"),
    test=L(yolo_dataset)(names="yolo_val", data_file="datasets/yolo/data.yaml", split="val"),
)
