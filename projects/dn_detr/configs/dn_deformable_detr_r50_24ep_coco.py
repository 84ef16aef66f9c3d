"""DN-DAB-Deformable-DETR (v2: deformable attention in encoder and decoder), R50, on COCO, 24 epochs. Published: 48.4 AP."""

from .dn_deformable_detr_r50_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_deformable_detr_r50_24ep_coco"

schedule.epochs = 24
schedule.drop_epochs = [20]
