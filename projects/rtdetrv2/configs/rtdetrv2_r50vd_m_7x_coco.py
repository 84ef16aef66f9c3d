"""RT-DETRv2-R50-m on COCO, 84 epochs: a narrower encoder, and half of the decoder layers for inference.

Published: 51.9 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file rtdetrv2/rtdetrv2_r50vd_m_7x_coco --num-gpus 4
"""

from deim.config import with_iterations

from .rtdetrv2_r50vd_6x_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/rtdetrv2_r50vd_m_7x_coco"

model.encoder.expansion = 0.5
model.decoder.eval_layer = 2

schedule.epochs = 84
schedule.no_aug_epochs = 3

with_iterations(train, schedule, dataloader)
