"""Deformable DETR on one feature map of stride 16 (DC5), R50, on COCO, 50 epochs.

Published: 41.5 AP, from an ImageNet backbone, on V100 for 215 GPU hours.

    deim train --config-file deformable_detr/deformable_detr_r50_dc5_single_scale_50ep_coco --num-gpus 8
"""

from .deformable_detr_r50_single_scale_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deformable_detr_r50_dc5_single_scale_50ep_coco"

model.backbone.dilated = True
