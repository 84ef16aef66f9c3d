"""DEIM on two-stage Deformable DETR, R50, on COCO, 50 epochs. No results exist yet."""

from deim.config import with_deim_loss, with_dense_o2o

from .deformable_detr_r50_two_stage_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_deformable_detr_r50_two_stage_50ep_coco"

model = with_deim_loss(model)
dataloader = with_dense_o2o(dataloader)

schedule.dense_epochs = [4, 29]
