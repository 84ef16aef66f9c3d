"""DEIM-D-FINE-N on COCO, 160 epochs at a constant learning rate.

Published: 43.0 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_dfine/deim_dfine_n_coco --num-gpus 4
"""

from deim.config import with_deim_dfine, with_dense_o2o, with_iterations

from ...dfine.configs.dfine_n_coco import dataloader, model, optimizer
from .deim_dfine_l_coco import lr_multiplier, schedule, train

train.output_dir = "output/deim_dfine_n_coco"

model = with_deim_dfine(model)
dataloader = with_dense_o2o(dataloader)

schedule.epochs = 160
schedule.flat_epochs = 78
schedule.dense_epochs = [4, 78]
schedule.no_aug_epochs = 12
schedule.lr_gamma = 1.0

with_iterations(train, schedule, dataloader)
