"""DEIM on H-Deformable-DETR, R50, on COCO, 12 epochs. No results exist yet."""

from deim.config import with_deim_loss, with_dense_o2o

from .h_deformable_detr_r50_12ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_h_deformable_detr_r50_12ep_coco"

model = with_deim_loss(model)
dataloader = with_dense_o2o(dataloader)

schedule.dense_epochs = [3, 9]
