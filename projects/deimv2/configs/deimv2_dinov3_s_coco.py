"""DEIMv2-S with ViT-Tiny on COCO, 132 epochs.

Published: 50.9 AP, from a ViT that is distilled from DINOv3, on 4 GPUs.

    deim train --config-file deimv2/deimv2_dinov3_s_coco --num-gpus 4
"""

from deim.config import with_iterations

from .deimv2_dinov3_m_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_dinov3_s_coco"

dataloader.train.mapper.multi_scale_repeat = 20

model.backbone.size = "vit_tiny"
model.encoder.hidden_dim = 192
model.encoder.expansion = 0.34
model.encoder.depth_multiplier = 0.67
model.criterion.matcher.late_epoch = 100

schedule.epochs = 132
schedule.flat_epochs = 64
schedule.dense_epochs = [4, 64]

with_iterations(train, schedule, dataloader)
