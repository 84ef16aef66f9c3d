"""ECPose-M with ECViT-T+ on the persons of COCO, 92 epochs.

Published: 72.4 AP, from an ECViT that is distilled for poses, on 4 GPUs.
The AP is that of keypoints.

    deim train --config-file ecpose/ecpose_m_coco --num-gpus 4
"""

from deim.config import with_iterations

from .ecpose_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/ecpose_m_coco"
train.accumulation_steps = 1

model.backbone.size = "ecvittplus"
model.backbone.out_channels = None  # the width of the transformer
model.encoder.dim_feedforward = 512
model.encoder.depth_multiplier = 0.67
model.decoder.layer.dim_feedforward = 512

optimizer.weight_decay = 1e-4
optimizer.params.rules.backbone.lr = 2.5e-5

schedule.epochs = 92
schedule.dense_epochs = [4, 45]

with_iterations(train, schedule, dataloader, images=56_599)
