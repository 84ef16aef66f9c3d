"""DEIMv2-M with HGNetV2-B2 on COCO, 102 epochs.

The authors publish a config, but no result. Training starts from an ImageNet backbone.

    deim train --config-file deimv2/deimv2_hgnetv2_m_coco --num-gpus 4
"""

from deim.config import with_iterations

from .deimv2_hgnetv2_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_m_coco"

dataloader.train.mapper.multi_scale_repeat = 6

model.backbone.name = "B2"
model.backbone.learnable_affine = True
model.encoder.depth_multiplier = 0.67
model.decoder.num_layers = 4
model.criterion.matcher.late_epoch = 80

optimizer.lr = 4e-4
optimizer.weight_decay = 1e-4
# The first matching rule applies: the backbone's norms get no weight decay, but not the backbone's learning rate.
optimizer.params.rules = dict(
    no_weight_decay=dict(pattern=r"norm", weight_decay=0.0),
    backbone=dict(pattern=r"^backbone\.", lr=4e-5),
)

schedule.epochs = 102
schedule.flat_epochs = 49
schedule.dense_epochs = [4, 49]
schedule.no_aug_epochs = 12

with_iterations(train, schedule, dataloader)
