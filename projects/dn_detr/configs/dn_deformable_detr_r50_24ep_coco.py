"""DN-DAB-Deformable-DETR with deformable attention in encoder and decoder (the authors' "v2"), R50, COCO, 24 epochs.

Published: 48.4 AP, from an ImageNet backbone, on 4 to 8 A100.

    deim train --config-file dn_detr/dn_deformable_detr_r50_24ep_coco --num-gpus 8
"""

from deim.config import with_iterations

from .dn_deformable_detr_r50_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_deformable_detr_r50_24ep_coco"

schedule.epochs = 24
schedule.drop_epochs = [20]

with_iterations(train, schedule, dataloader)
