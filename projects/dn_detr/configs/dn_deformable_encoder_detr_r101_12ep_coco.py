"""DN-DAB-Deformable-DETR with deformable attention in the encoder only, R101, on COCO, 12 epochs.

Published: 44.1 AP, from an ImageNet backbone, on 16 GPUs.

    deim train --config-file dn_detr/dn_deformable_encoder_detr_r101_12ep_coco --num-gpus 8
"""

from .dn_deformable_encoder_detr_r50_12ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_deformable_encoder_detr_r101_12ep_coco"

model.backbone.depth = 101
