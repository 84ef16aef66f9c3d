"""Persons of COCO 2017 with keypoints, with the augmentations of DETRPose (arXiv 2506.13027).

To use another dataset in COCO's format, see coco.py; its categories must define the keypoints.
"""

from detectron2.config import LazyCall as L

from deim.config import with_keypoint_data
from deim.data.augmentation import ColorJitter, RandomZoomOut
from deim.data.copy_blend import CopyBlend
from deim.data.mixup import Mixup
from deim.data.mosaic import Mosaic

from .coco import dataloader

for split, loader in (("train", dataloader.train), ("val", dataloader.test)):
    loader.dataset.names = f"keypoints_coco_2017_{split}"
# Only persons with keypoints, and images with such persons.
dataloader.train.dataset.min_keypoints = 1
dataloader = with_keypoint_data(dataloader)
dataloader.evaluator.tasks = ("keypoints",)

mapper = dataloader.train.mapper
mapper.areas = True
mapper.color = []
mapper.strong = [L(RandomZoomOut)(prob=0.5, side_range=(1.0, 4.0), fill=0, centered=True)]
mapper.weak = [*mapper.weak, L(ColorJitter)(prob=0.5)]
# Four images side by side, without rotation, shift and scale.
mapper.mosaic = L(Mosaic)(tile_size=320, degrees=0.0, translate=0.0, scale=(1.0, 1.0), fill=0)
# Until the final stage: mixup with probability 0.25, otherwise copy-blend with probability 0.5.
epochs = ["${schedule.dense_epochs.0}", None]
dataloader.train.mixup = L(Mixup)(prob=0.25, ratio=(0.45, 0.55), epochs=epochs)
dataloader.train.batch_operations = [
    L(CopyBlend)(prob=2 / 3, ratio=(0.45, 0.55), epochs=epochs, min_area=0.0, num_objects=3, expand_ratio=None)
]
