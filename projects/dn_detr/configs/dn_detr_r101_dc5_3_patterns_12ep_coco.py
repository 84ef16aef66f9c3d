"""DN-DETR with three patterns for each anchor, R101-DC5, on COCO, 12 epochs.

Published: 42.8 AP, from an ImageNet backbone, on 8 GPUs.

    deim train --config-file dn_detr/dn_detr_r101_dc5_3_patterns_12ep_coco --num-gpus 8
"""

from .dn_detr_r50_dc5_3_patterns_12ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_detr_r101_dc5_3_patterns_12ep_coco"

model.backbone.depth = 101
