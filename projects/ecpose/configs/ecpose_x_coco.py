"""ECPose-X with ECViT-S+ on the persons of COCO, 74 epochs.

Published: 74.8 AP, from an ECViT that is distilled for poses, on 4 GPUs.
The AP is that of keypoints.

    deim train --config-file ecpose/ecpose_x_coco --num-gpus 4
"""

from .ecpose_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/ecpose_x_coco"

model.backbone.size = "ecvitsplus"
model.encoder.dim_feedforward = 2048
model.encoder.expansion = 1.5
model.decoder.layer.dim_feedforward = 2048
