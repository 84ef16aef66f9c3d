"""Deformable DETR on the coarsest feature map only, R50, on COCO, 50 epochs.

Published: 39.4 AP, from an ImageNet backbone, on V100 for 160 GPU hours.

    deim train --config-file deformable_detr/deformable_detr_r50_single_scale_50ep_coco --num-gpus 8
"""

from .deformable_detr_r50_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deformable_detr_r50_single_scale_50ep_coco"

model.backbone.out_features = ["res5"]
model.encoder.num_levels = 1
model.decoder.layer.num_points = [4]
