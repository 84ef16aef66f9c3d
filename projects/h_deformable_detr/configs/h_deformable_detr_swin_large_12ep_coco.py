"""H-Deformable-DETR with tricks, Swin-L, on COCO, 12 epochs. Published: 56.2 AP."""

from .h_deformable_detr_swin_tiny_12ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/h_deformable_detr_swin_large_12ep_coco"

model.backbone.size = "large"
model.backbone.weights = "imagenet22k"
