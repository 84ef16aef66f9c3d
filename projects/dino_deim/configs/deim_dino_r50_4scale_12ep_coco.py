"""DEIM on detrex's DINO, R50, four scales, on COCO, 12 epochs. No results exist yet.

Requires a checkout of detrex on PYTHONPATH.
"""

from deim.config import get_config, get_detrex_config, with_deim_criterion, with_dense_o2o, with_iterations

_dino = get_detrex_config("dino/configs/dino-resnet/dino_r50_4scale_12ep.py")

dataloader = with_dense_o2o(get_config("common/data/coco_detr.py").dataloader)
model = with_deim_criterion(_dino.model)
optimizer = _dino.optimizer
schedule = get_config("common/schedule.py").schedule
lr_multiplier = get_config("common/schedule.py").lr_multiplier
train = get_config("common/train.py").train

train.output_dir = "output/deim_dino_r50_4scale_12ep_coco"
train.model_ema.enabled = False
# The pretrained backbone of detrex's recipe.
train.init_checkpoint = _dino.train.init_checkpoint
model.device = "${train.device}"

dataloader.train.total_batch_size = 16

schedule.epochs = 12
schedule.warmup_iters = 0
schedule.drop_epochs = [11]
schedule.dense_epochs = [3, 9]

with_iterations(train, schedule, dataloader)
