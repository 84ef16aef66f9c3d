"""Two-stage Deformable DETR with masks, R50, on COCO, 50 epochs.

No results exist yet. The weights of the losses and of the matching cost of masks are those of ECSeg.

    deim train --config-file deformable_detr/deformable_detr_r50_two_stage_masks_50ep_coco --num-gpus 8
"""

from deim.config import with_mask_data, with_masks

from .deformable_detr_r50_two_stage_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deformable_detr_r50_two_stage_masks_50ep_coco"
train.best_metric = "segm/AP"

model = with_masks(model, weight=5.0)
dataloader = with_mask_data(dataloader)
dataloader.test.total_batch_size = 16  # masks need 80 MB per image of 800 x 1333 pixels
