"""DEIMv2-L with HGNetV2-B4 on COCO, 58 epochs.

The authors publish a config, but no result. Training starts from an ImageNet backbone.

    deim train --config-file deimv2/deimv2_hgnetv2_l_coco --num-gpus 4
"""

from deim.config import get_config, with_dense_o2o, with_iterations

dataloader = with_dense_o2o(get_config("common/data/coco.py").dataloader, copy_blend=True)
model = get_config("common/models/deimv2.py").model
optimizer = get_config("common/optim.py").optimizer
schedule = get_config("common/schedule.py").schedule
lr_multiplier = get_config("common/schedule.py").lr_multiplier
train = get_config("common/train.py").train

train.output_dir = "output/deimv2_hgnetv2_l_coco"
train.amp.enabled = True

dataloader.train.mapper.multi_scale_repeat = 4

optimizer.lr = 5e-4
optimizer.params.rules.backbone.lr = 2.5e-5

schedule.epochs = 58
schedule.warmup = "quadratic"
schedule.warmup_iters = 2000
schedule.flat_epochs = 29
schedule.dense_epochs = [4, 29]
schedule.no_aug_epochs = 8
schedule.lr_gamma = 0.5
schedule.final_from_best = True

with_iterations(train, schedule, dataloader)
