"""DEIM on DN-DAB-Deformable-DETR (v2), R50, on COCO, 24 epochs. No results exist yet."""

from deim.config import with_deim_loss, with_dense_o2o

from .dn_deformable_detr_r50_24ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_dn_deformable_detr_r50_24ep_coco"

model = with_deim_loss(model)
dataloader = with_dense_o2o(dataloader)

schedule.dense_epochs = [4, 14]
