"""DN-DETR with three patterns for each anchor, R50-DC5, on COCO, 12 epochs.

Published: 41.7 AP, from an ImageNet backbone, on 8 GPUs.

    deim train --config-file dn_detr/dn_detr_r50_dc5_3_patterns_12ep_coco --num-gpus 8
"""

from deim.config import with_iterations

from .dn_detr_r50_dc5_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_detr_r50_dc5_3_patterns_12ep_coco"

model.decoder.queries.num_patterns = 3

schedule.epochs = 12
schedule.drop_epochs = [11]

with_iterations(train, schedule, dataloader)
