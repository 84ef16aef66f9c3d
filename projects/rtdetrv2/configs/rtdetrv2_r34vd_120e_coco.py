"""RT-DETRv2-R34 on COCO, 120 epochs.

Published: 49.9 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file rtdetrv2/rtdetrv2_r34vd_120e_coco --num-gpus 4
"""

from deim.config import with_iterations

from .rtdetrv2_r50vd_6x_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/rtdetrv2_r34vd_120e_coco"

model.backbone.depth = 34
model.backbone.freeze_at = 0
model.backbone.freeze_norm = False
model.encoder.expansion = 0.5
model.decoder.num_layers = 4

optimizer.params.rules = dict(
    backbone=dict(pattern=r"^backbone\.(?!.*norm)", lr=5e-5),
    backbone_norm=dict(pattern=r"^backbone\..*norm", lr=5e-5, weight_decay=0.0),
    no_weight_decay=dict(pattern=r"^(encoder|decoder)\..*(norm|bias)", weight_decay=0.0),
)

schedule.epochs = 120
schedule.no_aug_epochs = 3

with_iterations(train, schedule, dataloader)
