"""D-FINE-M on COCO, 132 epochs.

Published: 52.3 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file dfine/dfine_m_coco --num-gpus 4
"""

from deim.config import with_iterations

from .dfine_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dfine_m_coco"

dataloader.train.mapper.multi_scale_repeat = 6

model.backbone.name = "B2"
model.backbone.learnable_affine = True
model.backbone.freeze_at = 0
model.backbone.freeze_norm = False
model.encoder.depth_multiplier = 0.67
model.decoder.num_layers = 4

optimizer.lr = 2e-4
optimizer.weight_decay = 1e-4
optimizer.params.rules.backbone.lr = 2e-5
optimizer.params.rules.no_weight_decay.pattern = r"^(encoder|decoder)\..*(norm|bias)"

schedule.epochs = 132
schedule.no_aug_epochs = 12

with_iterations(train, schedule, dataloader)
