"""DEIMv2-L with DINOv3 ViT-S on COCO, 68 epochs.

Published: 56.0 AP, from DINOv3's weights, on 4 GPUs.

    deim train --config-file deimv2/deimv2_dinov3_l_coco --num-gpus 4
"""

from deim.config import with_iterations

from .deimv2_dinov3_x_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_dinov3_l_coco"

model.backbone.size = "dinov3_vits16"
model.backbone.prior_channels = 32
model.backbone.out_channels = 224
model.encoder.hidden_dim = 224
model.encoder.dim_feedforward = 896
model.encoder.expansion = 1.0
model.encoder.depth_multiplier = 1.0
model.decoder.layer.feedforward.hidden_dim = 896
model.decoder.num_layers = 4
model.criterion.matcher.late_epoch = 50

optimizer.params.rules.backbone.lr = 1.25e-5

schedule.epochs = 68
schedule.flat_epochs = 34
schedule.dense_epochs = [4, 34]

with_iterations(train, schedule, dataloader)
