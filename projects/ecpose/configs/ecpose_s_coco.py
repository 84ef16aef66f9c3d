"""ECPose-S with ECViT-T on the persons of COCO, 92 epochs.

Published: 68.9 AP, from an ECViT that is distilled for poses, on 4 GPUs.
The AP is that of keypoints.

    deim train --config-file ecpose/ecpose_s_coco --num-gpus 4
"""

from .ecpose_m_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/ecpose_s_coco"

model.backbone.size = "ecvitt"
model.encoder.hidden_dim = 192
model.encoder.expansion = 0.34
model.decoder.num_layers = 3
