"""DN-DETR, R50-DC5, on COCO, 50 epochs.

Published: 46.3 AP, from an ImageNet backbone, on 8 GPUs.

    deim train --config-file dn_detr/dn_detr_r50_dc5_50ep_coco --num-gpus 8
"""

from .dn_detr_r50_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_detr_r50_dc5_50ep_coco"

model.backbone.dilated = True
