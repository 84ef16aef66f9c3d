"""D-FINE-X on COCO, 80 epochs.

Published: 55.8 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file dfine/dfine_x_coco --num-gpus 4
"""

from .dfine_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dfine_x_coco"

dataloader.train.mapper.multi_scale_repeat = 3

model.backbone.name = "B5"
model.encoder.hidden_dim = 384
model.encoder.dim_feedforward = 2048
model.decoder.layer.dim = 256
model.decoder.refinement.reg_scale = 8.0

optimizer.params.rules.backbone.lr = 2.5e-6
