"""DN-DAB-Deformable-DETR with deformable attention in the encoder only, R50, on COCO, 12 epochs.

Published: 43.4 AP, from an ImageNet backbone, on 16 GPUs.

    deim train --config-file dn_detr/dn_deformable_encoder_detr_r50_12ep_coco --num-gpus 8
"""

from deim.config import with_iterations

from .dn_deformable_encoder_detr_r50_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_deformable_encoder_detr_r50_12ep_coco"

schedule.epochs = 12
schedule.drop_epochs = [11]

with_iterations(train, schedule, dataloader)
