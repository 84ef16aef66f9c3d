"""D-FINE-S on COCO, 132 epochs.

Published: 48.5 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file dfine/dfine_s_coco --num-gpus 4
"""

from .dfine_m_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dfine_s_coco"

dataloader.train.mapper.multi_scale_repeat = 20

model.backbone.name = "B0"
model.encoder.depth_multiplier = 0.34
model.encoder.expansion = 0.5
model.decoder.num_layers = 3

optimizer.params.rules.backbone.lr = 1e-4
