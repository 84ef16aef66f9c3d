"""ECDet-S with ECViT-T on COCO, 74 epochs.

Published: 51.7 AP, from an ECViT that is distilled for detection, on 4 GPUs.

    deim train --config-file ecdet/ecdet_s_coco --num-gpus 4
"""

from deim.config import with_iterations

from .ecdet_m_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/ecdet_s_coco"

model.backbone.size = "ecvitt"
model.encoder.hidden_dim = 192
model.encoder.expansion = 0.34
model.decoder.layer.dim_feedforward = 512

schedule.epochs = 74
schedule.flat_epochs = 36
schedule.dense_epochs = [0, 36]

with_iterations(train, schedule, dataloader)
