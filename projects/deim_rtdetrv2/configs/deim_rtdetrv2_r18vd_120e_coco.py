"""DEIM-RT-DETRv2-R18 on COCO, 120 epochs at one scale.

Published: 49.0 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_rtdetrv2/deim_rtdetrv2_r18vd_120e_coco --num-gpus 4
"""

from .deim_rtdetrv2_r34vd_120e_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_rtdetrv2_r18vd_120e_coco"

dataloader.train.mapper.multi_scale_repeat = None

model.backbone.depth = 18
model.decoder.num_layers = 3

optimizer.params.rules = dict(no_weight_decay=dict(pattern=r"norm", weight_decay=0.0))
