"""D-FINE-N on COCO, 160 epochs.

Published: 42.8 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file dfine/dfine_n_coco --num-gpus 4
"""

from deim.config import with_iterations

from .dfine_s_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dfine_n_coco"

dataloader.train.total_batch_size = 128
dataloader.test.total_batch_size = 256
dataloader.train.mapper.multi_scale_repeat = None

model.backbone.out_features = ["stage3", "stage4"]
model.encoder.hidden_dim = 128
model.encoder.dim_feedforward = 512
model.encoder.expansion = 0.34
model.encoder.depth_multiplier = 0.5
model.decoder.input_proj.in_channels = [128, 128]
model.decoder.layer.dim_feedforward = 512
model.decoder.layer.num_points = [6, 6]

optimizer.lr = 8e-4
optimizer.params.rules.backbone.lr = 4e-4

schedule.epochs = 160

with_iterations(train, schedule, dataloader)
