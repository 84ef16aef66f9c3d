"""DEIM-RT-DETRv2-R50 on COCO, 60 epochs.

Published: 54.3 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_rtdetrv2/deim_rtdetrv2_r50vd_60e_coco --num-gpus 4
"""

from deim.config import with_deim_rtdetr, with_dense_o2o, with_iterations

from ...rtdetrv2.configs.rtdetrv2_r50vd_6x_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_rtdetrv2_r50vd_60e_coco"

model = with_deim_rtdetr(model)
dataloader = with_dense_o2o(dataloader)

optimizer.lr = 2e-4
optimizer.params.rules = dict(
    backbone=dict(pattern=r"^backbone\.(?!.*norm)", lr=2e-5),
    no_weight_decay=dict(pattern=r"norm", weight_decay=0.0),
)

schedule.epochs = 60
schedule.warmup = "quadratic"
schedule.flat_epochs = 34
schedule.dense_epochs = [4, 34]
schedule.no_aug_epochs = 2
schedule.lr_gamma = 0.5
schedule.final_from_best = True

with_iterations(train, schedule, dataloader)
