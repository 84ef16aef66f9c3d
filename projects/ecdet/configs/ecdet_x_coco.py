"""ECDet-X with ECViT-S+ on COCO, 50 epochs.

Published: 57.9 AP, from an ECViT that is distilled for detection, on 4 GPUs.

    deim train --config-file ecdet/ecdet_x_coco --num-gpus 4
"""

from .ecdet_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/ecdet_x_coco"

model.backbone.size = "ecvitsplus"
model.encoder.dim_feedforward = 2048
model.encoder.expansion = 1.5
model.decoder.layer.dim_feedforward = 2048

optimizer.params.rules.backbone.lr = 2.5e-6
