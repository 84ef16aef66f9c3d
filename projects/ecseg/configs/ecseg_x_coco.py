"""ECSeg-X with ECViT-S+ on COCO, 50 epochs.

Published: 48.4 AP, from an ECViT that is distilled for instance segmentation, on 4 GPUs.
This is the AP of masks.

    deim train --config-file ecseg/ecseg_x_coco --num-gpus 4
"""

from deim.config import with_ecseg, with_mask_data

from ...ecdet.configs.ecdet_x_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/ecseg_x_coco"
train.best_metric = "segm/AP"

model = with_ecseg(model)
dataloader = with_mask_data(dataloader, mask_stride=1)
