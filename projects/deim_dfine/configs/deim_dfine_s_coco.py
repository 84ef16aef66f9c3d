"""DEIM-D-FINE-S on COCO, 132 epochs.

Published: 49.0 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_dfine/deim_dfine_s_coco --num-gpus 4
"""

from deim.config import with_deim_dfine, with_iterations

from ...dfine.configs.dfine_s_coco import model
from .deim_dfine_m_coco import dataloader, lr_multiplier, optimizer, schedule, train

train.output_dir = "output/deim_dfine_s_coco"

model = with_deim_dfine(model)

dataloader.train.mapper.multi_scale_repeat = 20

optimizer.params.rules.backbone.lr = 2e-4

schedule.epochs = 132
schedule.flat_epochs = 64
schedule.dense_epochs = [4, 64]

with_iterations(train, schedule, dataloader)
