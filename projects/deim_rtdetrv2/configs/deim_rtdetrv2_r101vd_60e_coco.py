"""DEIM-RT-DETRv2-R101 on COCO, 60 epochs.

Published: 55.5 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_rtdetrv2/deim_rtdetrv2_r101vd_60e_coco --num-gpus 4
"""

from .deim_rtdetrv2_r50vd_60e_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_rtdetrv2_r101vd_60e_coco"

model.backbone.depth = 101
model.encoder.hidden_dim = 384
model.encoder.dim_feedforward = 2048

optimizer.params.rules.backbone.lr = 2e-6
