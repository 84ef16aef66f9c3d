"""RT-DETRv2-R101 on COCO, 72 epochs.

Published: 54.3 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file rtdetrv2/rtdetrv2_r101vd_6x_coco --num-gpus 4
"""

from .rtdetrv2_r50vd_6x_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/rtdetrv2_r101vd_6x_coco"

model.backbone.depth = 101
model.encoder.hidden_dim = 384
model.encoder.dim_feedforward = 2048

optimizer.params.rules.backbone.lr = 1e-6
