"""DEIM-RT-DETRv2-R34 on COCO, 120 epochs.

Published: 50.9 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_rtdetrv2/deim_rtdetrv2_r34vd_120e_coco --num-gpus 4
"""

from deim.config import with_deim_rtdetr, with_iterations

from ...rtdetrv2.configs.rtdetrv2_r34vd_120e_coco import model
from .deim_rtdetrv2_r50vd_60e_coco import dataloader, lr_multiplier, optimizer, schedule, train

train.output_dir = "output/deim_rtdetrv2_r34vd_120e_coco"

model = with_deim_rtdetr(model)

optimizer.params.rules.backbone.lr = 1e-4

schedule.epochs = 120
schedule.flat_epochs = 64
schedule.dense_epochs = [4, 64]
schedule.no_aug_epochs = 3

with_iterations(train, schedule, dataloader)
