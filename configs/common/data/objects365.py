"""Objects365 v2, after ``tools/prepare_objects365.py``."""

from detectron2.config import LazyCall as L

from deim.data import coco_dataset

datasets = dict(
    num_classes=365,
    num_images=1_817_289,
    train=L(coco_dataset)(
        names="objects365_train",
        json_file="datasets/objects365/train/new_zhiyuan_objv2_train_resized.json",
        image_root="datasets/objects365/train",
    ),
    test=L(coco_dataset)(
        names="objects365_val",
        json_file="datasets/objects365/val/new_zhiyuan_objv2_val_resized.json",
        image_root="datasets/objects365/val",
    ),
)
