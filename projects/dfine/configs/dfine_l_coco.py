"""D-FINE-L on COCO, 80 epochs.

Published: 54.0 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file dfine/dfine_l_coco --num-gpus 4
"""

from deim.config import get_config, with_iterations

dataloader = get_config("common/data/coco.py").dataloader
model = get_config("common/models/dfine.py").model
optimizer = get_config("common/optim.py").optimizer
schedule = get_config("common/schedule.py").schedule
lr_multiplier = get_config("common/schedule.py").lr_multiplier
train = get_config("common/train.py").train

train.output_dir = "output/dfine_l_coco"
train.amp.enabled = True

dataloader.train.mapper.multi_scale_repeat = 4

schedule.epochs = 80
schedule.no_aug_epochs = 8
schedule.final_from_best = True

with_iterations(train, schedule, dataloader)
