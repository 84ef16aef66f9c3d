"""DEIM-D-FINE-L on COCO, 58 epochs.

Published: 54.7 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deim_dfine/deim_dfine_l_coco --num-gpus 4
"""

from deim.config import with_deim_dfine, with_dense_o2o, with_iterations

from ...dfine.configs.dfine_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_dfine_l_coco"

model = with_deim_dfine(model)
dataloader = with_dense_o2o(dataloader)

optimizer.lr = 5e-4
optimizer.params.rules.backbone.lr = 2.5e-5

schedule.epochs = 58
schedule.warmup = "quadratic"
schedule.warmup_iters = 2000
schedule.flat_epochs = 29
schedule.dense_epochs = [4, 29]
schedule.no_aug_epochs = 8
schedule.lr_gamma = 0.5

with_iterations(train, schedule, dataloader)
