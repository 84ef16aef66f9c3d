"""COCO 2017 with the augmentations of RT-DETR, D-FINE and DEIM.

To use another COCO-format dataset, set its name and paths, likewise for ``dataloader.test``, and ``model.num_classes``:

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
    # (height, width) of the model input
    image_size=(640, 640),
    train=L(build_train_loader)(
        dataset=L(coco_dataset)(names="coco_2017_train", json_file=None, image_root=None, filter_empty=False),
        mapper=L(StagedMapper)(
            schedule="${schedule}",
            shape="${dataloader.image_size}",
            # color and strong: augmentations of the stages DENSE and STRONG; weak: those of every stage
            color=[L(RandomPhotometricDistort)(prob=0.5)],
            strong=[L(RandomZoomOut)(prob=0.5, fill=0), L(RandomIoUCrop)(prob=0.8)],
            weak=[L(T.RandomFlip)(prob=0.5)],
            mosaic=None,
            mosaic_prob=0.5,
            multi_scale_repeat=None,
            # minimum side of a box after augmentation, in pixels; smaller objects are dropped
            min_box_size=1.0,
            img_format="RGB",
        ),
        mixup=None,
        # alternatives to mixup, such as CopyBlend: the first operation that is drawn is applied to a batch
        batch_operations=[],
        total_batch_size=32,
        # None: 4 per rank, but not more than its cores
        num_workers=None,
        # None: train.seed, or 0 with trainers of other packages
        seed=None,
        # a detectron2 sampler; None draws every image once per epoch
        sampler=None,
        # draw images of classes that are in a smaller fraction of the images more often; None: all equally often
        repeat_threshold=None,
        # maximum number of unreadable images per rank; each is replaced by another image
        max_unreadable_images=0,
        # memory for decoded images per rank, including its workers; 0 decodes images in each epoch
        image_cache_gb=0.0,
    ),
    test=L(build_test_loader)(
        dataset=L(coco_dataset)(names="coco_2017_val", json_file=None, image_root=None, filter_empty=False),
        mapper=L(DetectionMapper)(
            is_train=False,
            # detectron2's Resize, which uses PIL: published weights were evaluated with its filter
            augmentations=[L(T.Resize)(shape="${dataloader.image_size}")],
            img_format="RGB",
        ),
        total_batch_size=64,
        num_workers=None,
    ),
    # further test sets by name: paths of datasets, dataset nodes, or nodes like test
    extra_tests=dict(),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
)
