"""RT-DETRv2-R50 on COCO, 72 epochs.

Published: 53.4 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file rtdetrv2/rtdetrv2_r50vd_6x_coco --num-gpus 4
"""

from deim.config import get_config, with_iterations

dataloader = get_config("common/data/coco.py").dataloader
model = get_config("common/models/rtdetrv2.py").model
optimizer = get_config("common/optim.py").optimizer
schedule = get_config("common/schedule.py").schedule
lr_multiplier = get_config("common/schedule.py").lr_multiplier
train = get_config("common/train.py").train

train.output_dir = "output/rtdetrv2_r50vd_6x_coco"
train.amp.enabled = True
train.model_ema.warmup_iters = 2000

dataloader.train.total_batch_size = 16
dataloader.train.mapper.multi_scale_repeat = 3

optimizer.lr = 1e-4
optimizer.weight_decay = 1e-4
optimizer.params.rules = dict(
    backbone=dict(pattern=r"^backbone\.(?!.*norm)", lr=1e-5),
    no_weight_decay=dict(pattern=r"^(encoder|decoder)\..*norm", weight_decay=0.0),
)

schedule.epochs = 72
schedule.warmup_iters = 2000

with_iterations(train, schedule, dataloader)
