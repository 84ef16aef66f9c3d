"""Deformable DETR, R50, on COCO, 50 epochs.

Published: 44.5 AP, from an ImageNet backbone, on V100 for 325 GPU hours.

    deim train --config-file deformable_detr/deformable_detr_r50_50ep_coco --num-gpus 8
"""

from deim.config import get_config, with_iterations

dataloader = get_config("common/data/coco_detr.py").dataloader
model = get_config("common/models/deformable_detr.py").model
optimizer = get_config("common/optim.py").optimizer
schedule = get_config("common/schedule.py").schedule
lr_multiplier = get_config("common/schedule.py").lr_multiplier
train = get_config("common/train.py").train

train.output_dir = "output/deformable_detr_r50_50ep_coco"
train.model_ema.enabled = False

optimizer.lr = 2e-4
optimizer.weight_decay = 1e-4
optimizer.params.rules = dict(
    backbone=dict(pattern=r"^backbone\.", lr=2e-5),
    sampling=dict(pattern=r"sampling_offsets|reference_points", lr=2e-5),
)

schedule.epochs = 50
schedule.warmup_iters = 0
schedule.drop_epochs = [40]

with_iterations(train, schedule, dataloader)
