"""DEIMv2-M with ViT-Tiny+ on COCO, 102 epochs.

Published: 53.0 AP, from a ViT that is distilled from DINOv3, on 4 GPUs.

    deim train --config-file deimv2/deimv2_dinov3_m_coco --num-gpus 4
"""

from deim.config import with_iterations

from .deimv2_dinov3_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_dinov3_m_coco"

dataloader.train.mapper.multi_scale_repeat = 6

model.backbone.size = "vit_tinyplus"
model.backbone.out_blocks = [3, 7, 11]
model.backbone.prior_channels = 16
model.backbone.out_channels = None  # the width of the transformer
model.encoder.hidden_dim = 256
model.encoder.dim_feedforward = 512
model.encoder.expansion = 0.67
model.decoder.layer.feedforward.hidden_dim = 256
model.criterion.matcher.late_epoch = 80

optimizer.weight_decay = 1e-4
optimizer.params.rules.backbone.lr = 2.5e-5

schedule.epochs = 102
schedule.flat_epochs = 49
schedule.dense_epochs = [4, 49]
schedule.no_aug_epochs = 12

with_iterations(train, schedule, dataloader)
