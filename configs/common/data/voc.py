"""Pascal VOC: training on VOC2012 trainval, evaluation on VOC2007 test; also for other datasets in this layout."""

from detectron2.config import LazyCall as L

from deim.data import voc_dataset
from deim.data.datasets.voc import VOC_CLASSES

datasets = dict(
    num_classes=20,
    num_images=11_540,
    train=L(voc_dataset)(names="voc_train", root="datasets/VOC2012", split="trainval", class_names=list(VOC_CLASSES)),
    # objects marked as difficult are ignored in the evaluation
    test=L(voc_dataset)(
        names="voc_test",
        root="datasets/VOC2007",
        split="test",
        class_names=list(VOC_CLASSES),
        ignore_difficult=True,
    ),
)
