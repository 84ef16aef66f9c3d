"""COCO 2017 with the augmentations that RT-DETR, D-FINE and DEIM share.

Another COCO-format data set takes its place by name and paths:

    dataloader.train.dataset.names=mine_train
    dataloader.train.dataset.json_file=... dataloader.train.dataset.image_root=...
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator

from deim.data import DetectionMapper, build_test_loader, build_train_loader, coco_dataset
from deim.data.augmentation import RandomIoUCrop, RandomPhotometricDistort, RandomZoomOut
from deim.data.staged import StagedMapper

dataloader = dict(
    # height and width that the model sees
    image_size=(640, 640),
    train=L(build_train_loader)(
        dataset=L(coco_dataset)(names="coco_2017_train", json_file=None, image_root=None, filter_empty=False),
        mapper=L(StagedMapper)(
            schedule="${schedule}",
            shape="${dataloader.image_size}",
            color=[L(RandomPhotometricDistort)(prob=0.5)],
            strong=[L(RandomZoomOut)(prob=0.5, fill=0), L(RandomIoUCrop)(prob=0.8)],
            always=[L(T.RandomFlip)(prob=0.5)],
            mosaic=None,
            mosaic_prob=0.5,
            multi_scale_repeat=None,
            img_format="RGB",
        ),
        mixup=None,
        total_batch_size=32,
        # None: 4, or fewer where a process has fewer cores
        num_workers=None,
        # None: train.seed, or 0 in the training of others
        seed=None,
        # a sampler of detectron2; None draws every image once in an epoch
        sampler=None,
        # in place of one, another image is taken
        unreadable_images_allowed=0,
        # memory for decoded images, of each process with its workers; 0 decodes them in each epoch
        image_cache_gigabytes=0.0,
    ),
    test=L(build_test_loader)(
        dataset=L(coco_dataset)(names="coco_2017_val", json_file=None, image_root=None, filter_empty=False),
        mapper=L(DetectionMapper)(
            is_train=False,
            # detectron2's, by PIL: published weights were evaluated with its filter
            augmentations=[L(T.Resize)(shape="${dataloader.image_size}")],
            img_format="RGB",
        ),
        total_batch_size=64,
        num_workers=None,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
)
