"""DEIMv2-S with HGNetV2-B0 on COCO, 132 epochs.

The authors publish a config, but no result. Training starts from an ImageNet backbone.

    deim train --config-file deimv2/deimv2_hgnetv2_s_coco --num-gpus 4
"""

from deim.config import with_iterations

from .deimv2_hgnetv2_m_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_s_coco"

dataloader.train.mapper.multi_scale_repeat = 20

model.backbone.name = "B0"
model.encoder.fusion = "split_elan"
model.encoder.expansion = 0.5
model.encoder.depth_multiplier = 0.34
model.decoder.num_layers = 3
model.criterion.matcher.late_epoch = 100

optimizer.params.rules.backbone.lr = 2e-4

schedule.epochs = 132
schedule.flat_epochs = 64
schedule.dense_epochs = [4, 64]

with_iterations(train, schedule, dataloader)
