"""DEIMv2-N with HGNetV2-B0 on COCO, 160 epochs at a constant learning rate.

Published: 43.0 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deimv2/deimv2_hgnetv2_n_coco --num-gpus 4
"""

from deim.config import with_iterations

from .deimv2_hgnetv2_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_n_coco"

dataloader.train.mapper.multi_scale_repeat = None
dataloader.train.batch_operations[0].prob = 0.4
dataloader.train.batch_operations[0].epochs = None  # during dense_epochs

model.backbone.name = "B0"
model.backbone.learnable_affine = True
model.backbone.out_features = ["stage3", "stage4"]
model.encoder.fusion = "split_elan"
model.encoder.hidden_dim = 128
model.encoder.dim_feedforward = 512
model.encoder.expansion = 0.34
model.encoder.depth_multiplier = 0.5
model.decoder.input_proj.in_channels = [128, 128]
model.decoder.layer.num_points = [6, 6]
model.decoder.layer.feedforward.hidden_dim = 256
model.decoder.num_layers = 3
model.criterion.matcher.late_epoch = 136

optimizer.lr = 8e-4
optimizer.weight_decay = 1e-4
optimizer.params.rules.backbone.lr = 4e-4
optimizer.params.rules.no_weight_decay.pattern = r"^(encoder|decoder)\..*(norm|bias)"

schedule.epochs = 160
schedule.flat_epochs = 78
schedule.dense_epochs = [4, 78]
schedule.no_aug_epochs = 12
schedule.lr_gamma = 1.0

with_iterations(train, schedule, dataloader)
