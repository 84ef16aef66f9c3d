"""ECDet-L with ECViT-S on COCO, 50 epochs.

Published: 57.0 AP, from an ECViT that is distilled for detection, on 4 GPUs.

    deim train --config-file ecdet/ecdet_l_coco --num-gpus 4
"""

from deim.config import get_config, with_iterations

from ...deim_dfine.configs.deim_dfine_l_coco import dataloader, lr_multiplier, optimizer, schedule, train

train.output_dir = "output/ecdet_l_coco"

model = get_config("common/models/ecdet.py").model

dataloader.train.mapper.multi_scale_repeat = None
dataloader.train.mapper.mosaic_prob = 1.0
dataloader.train.mixup.prob = 1.0

# As in the official code, the projections of the backbone have the learning rate of the decoder.
optimizer.params.rules = dict(
    backbone_no_weight_decay=dict(pattern=r"^backbone\.vit\..*(norm|bias)", lr="${..backbone.lr}", weight_decay=0.0),
    backbone=dict(pattern=r"^backbone\.vit\.", lr=5e-6),
    no_weight_decay=dict(pattern=r"norm|bias", weight_decay=0.0),
)

schedule.epochs = 50
schedule.flat_epochs = 24
schedule.dense_epochs = [0, 24]
schedule.no_aug_epochs = 2
schedule.final_restarts = False

with_iterations(train, schedule, dataloader)
