"""ECDet-M with ECViT-T+ on COCO, 62 epochs.

Published: 54.3 AP, from an ECViT that is distilled for detection, on 4 GPUs.

    deim train --config-file ecdet/ecdet_m_coco --num-gpus 4
"""

from deim.config import with_iterations

from .ecdet_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/ecdet_m_coco"

dataloader.train.mapper.mosaic_prob = 0.75
dataloader.train.mixup.prob = 0.75

model.backbone.size = "ecvittplus"
model.backbone.out_channels = None  # the width of the transformer
model.encoder.dim_feedforward = 512
model.encoder.depth_multiplier = 0.67

optimizer.weight_decay = 1e-4
optimizer.params.rules.backbone.lr = 2.5e-5

schedule.epochs = 62
schedule.flat_epochs = 30
schedule.dense_epochs = [0, 30]

with_iterations(train, schedule, dataloader)
