"""DEIM on detrex's DAB-DETR, R50, on COCO, 50 epochs. No results exist yet.

Requires a checkout of detrex on PYTHONPATH.
"""

from deim.config import get_detrex_config, with_deim_criterion, with_iterations

from ...dino_deim.configs.deim_dino_r50_4scale_12ep_coco import dataloader, lr_multiplier, schedule, train

_dab_detr = get_detrex_config("dab_detr/configs/dab_detr_r50_50ep.py")

model = with_deim_criterion(_dab_detr.model)
optimizer = _dab_detr.optimizer

train.output_dir = "output/deim_dab_detr_r50_50ep_coco"
train.init_checkpoint = _dab_detr.train.init_checkpoint
model.device = "${train.device}"

schedule.epochs = 50
schedule.drop_epochs = [40]
schedule.dense_epochs = [4, 29]

with_iterations(train, schedule, dataloader)
