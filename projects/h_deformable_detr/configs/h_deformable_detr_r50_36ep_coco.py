"""H-Deformable-DETR with tricks, R50, on COCO, 36 epochs. Published: 50.3 AP."""

from .h_deformable_detr_r50_12ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/h_deformable_detr_r50_36ep_coco"

schedule.epochs = 36
schedule.drop_epochs = [30]
