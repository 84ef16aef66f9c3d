"""COCO 2017 with DETR's augmentations: random flip, random crop of half of the images, and random resize."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from deim.config import get_config
from deim.data.augmentation import OneOf, RandomSizeCrop, ResizeShortestEdge

dataloader = get_config("common/data/coco.py").dataloader
# image size in the Dense O2O stage, if the schedule has one
dataloader.image_size = (800, 800)
dataloader.train.mapper.color = []
dataloader.train.mapper.strong = []
dataloader.train.mapper.resize = [
    L(OneOf)(
        choices=[
            [L(ResizeShortestEdge)(lengths=list(range(480, 801, 32)), max_size=1333)],
            [
                L(ResizeShortestEdge)(lengths=[400, 500, 600]),
                L(RandomSizeCrop)(min_size=384, max_size=600),
                L(ResizeShortestEdge)(lengths=list(range(480, 801, 32)), max_size=1333),
            ],
        ]
    )
]
# detectron2's resize, which uses PIL: published weights were evaluated with its filter
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)]
