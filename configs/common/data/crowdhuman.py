"""CrowdHuman with full-body boxes."""

from detectron2.config import LazyCall as L

from deim.data import crowdhuman_dataset

datasets = dict(
    num_classes=1,
    num_images=15_000,
    train=L(crowdhuman_dataset)(
        names="crowdhuman_train",
        annotation_file="datasets/crowdhuman/annotation_train.odgt",
        image_root="datasets/crowdhuman/Images",
        box="full",
    ),
    test=L(crowdhuman_dataset)(
        names="crowdhuman_val",
        annotation_file="datasets/crowdhuman/annotation_val.odgt",
        image_root="datasets/crowdhuman/Images",
        box="full",
    ),
)
