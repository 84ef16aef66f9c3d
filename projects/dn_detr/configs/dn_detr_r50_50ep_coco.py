"""DN-DETR, R50, on COCO, 50 epochs.

Published: 44.4 AP, from an ImageNet backbone, on 8 GPUs.

    deim train --config-file dn_detr/dn_detr_r50_50ep_coco --num-gpus 8
"""

from deim.config import get_config, with_iterations

dataloader = get_config("common/data/coco_detr.py").dataloader
model = get_config("common/models/dn_detr.py").model
optimizer = get_config("common/optim.py").optimizer
schedule = get_config("common/schedule.py").schedule
lr_multiplier = get_config("common/schedule.py").lr_multiplier
train = get_config("common/train.py").train

train.output_dir = "output/dn_detr_r50_50ep_coco"
train.model_ema.enabled = False

dataloader.train.total_batch_size = 16

optimizer.lr = 1e-4
optimizer.weight_decay = 1e-4
optimizer.params.rules = dict(backbone=dict(pattern=r"^backbone\.", lr=1e-5))

schedule.epochs = 50
schedule.warmup_iters = 0
schedule.drop_epochs = [40]

with_iterations(train, schedule, dataloader)
