"""DEIMv2-Pico with HGNetV2-Pico on COCO, 500 epochs.

Published: 38.5 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deimv2/deimv2_hgnetv2_pico_coco --num-gpus 4
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from deim.config import get_config, with_iterations
from deim.data.augmentation import DropSmallBoxes

from .deimv2_hgnetv2_l_coco import dataloader, lr_multiplier, optimizer, schedule, train

model = get_config("common/models/deimv2_lite.py").model

train.output_dir = "output/deimv2_hgnetv2_pico_coco"

dataloader.train.total_batch_size = 128
dataloader.test.total_batch_size = 256
dataloader.train.mixup = None
dataloader.train.batch_operations = []
dataloader.train.mapper.multi_scale_repeat = None
# Small boxes are dropped before and after the resize.
dataloader.train.mapper.min_box_size = 8.0
dataloader.train.mapper.weak = [
    L(DropSmallBoxes)(min_size="${dataloader.train.mapper.min_box_size}"),
    L(T.RandomFlip)(prob=0.5),
]

model.criterion.matcher.late_epoch = 450

optimizer.lr = 1.6e-3
optimizer.weight_decay = 1e-4
optimizer.params.rules.backbone.lr = 8e-4
# As in the official code, the norm weights of the encoder's two downsampling layers have weight decay.
optimizer.params.rules.no_weight_decay.pattern = (
    r"^(encoder|decoder)\.(?!(input_)?downsample\.norm\.weight).*(norm|bias)"
)

schedule.epochs = 500
schedule.warmup_iters = 4000
schedule.flat_epochs = 250
schedule.dense_epochs = [4, 250]
schedule.strong_end_epoch = 400
schedule.no_aug_epochs = 32

with_iterations(train, schedule, dataloader)
