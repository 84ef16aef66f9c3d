"""DEIMv2-Atto with masks, at reduced size on ``deim_shapes`` with masks (``deim make-shapes --masks --keypoints``)."""

from deim.config import with_mask_data, with_masks

from .deimv2_hgnetv2_atto_shapes import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_atto_masks_shapes"
train.best_metric = "segm/AP"

model = with_masks(model)
dataloader = with_mask_data(dataloader)
