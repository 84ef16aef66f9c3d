"""DEIM-D-FINE-M on COCO, 102 epochs.

Published: 52.7 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_dfine/deim_dfine_m_coco --num-gpus 4
"""

from deim.config import with_deim_dfine, with_iterations

from ...dfine.configs.dfine_m_coco import model
from .deim_dfine_l_coco import dataloader, lr_multiplier, optimizer, schedule, train

train.output_dir = "output/deim_dfine_m_coco"

model = with_deim_dfine(model)

dataloader.train.mapper.multi_scale_repeat = 6

optimizer.lr = 4e-4
optimizer.weight_decay = 1e-4
# The first matching rule applies: the norms of the backbone have no weight decay and train at optimizer.lr.
optimizer.params.rules = dict(
    no_weight_decay=dict(pattern=r"norm", weight_decay=0.0),
    backbone=dict(pattern=r"^backbone\.", lr=4e-5),
)

schedule.epochs = 102
schedule.flat_epochs = 49
schedule.dense_epochs = [4, 49]
schedule.no_aug_epochs = 12

with_iterations(train, schedule, dataloader)
