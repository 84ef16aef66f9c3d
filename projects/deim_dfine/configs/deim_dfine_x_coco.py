"""DEIM-D-FINE-X on COCO, 58 epochs.

Published: 56.5 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_dfine/deim_dfine_x_coco --num-gpus 4
"""

from deim.config import with_deim_dfine

from ...dfine.configs.dfine_x_coco import model
from .deim_dfine_l_coco import dataloader, lr_multiplier, optimizer, schedule, train

train.output_dir = "output/deim_dfine_x_coco"

model = with_deim_dfine(model)

dataloader.train.mapper.multi_scale_repeat = 3

optimizer.params.rules.backbone.lr = 5e-6
