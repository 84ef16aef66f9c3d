"""H-Deformable-DETR with tricks, Swin-L, on COCO, 36 epochs. Published: 57.5 AP."""

from .h_deformable_detr_swin_large_12ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/h_deformable_detr_swin_large_36ep_coco"

model.backbone.drop_path_rate = 0.5

schedule.epochs = 36
schedule.drop_epochs = [30]
