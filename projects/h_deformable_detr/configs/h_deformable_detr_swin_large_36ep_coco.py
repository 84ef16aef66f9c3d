"""H-Deformable-DETR with the "tricks" of its authors, Swin-L, on COCO, 36 epochs.

Published: 57.1 AP, from an ImageNet-22k backbone, on 8 GPUs.

    deim train --config-file h_deformable_detr/h_deformable_detr_swin_large_36ep_coco --num-gpus 8
"""

from deim.config import with_iterations

from .h_deformable_detr_swin_large_12ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/h_deformable_detr_swin_large_36ep_coco"

model.backbone.drop_path_rate = 0.5

schedule.epochs = 36
schedule.drop_epochs = [30]

with_iterations(train, schedule, dataloader)
