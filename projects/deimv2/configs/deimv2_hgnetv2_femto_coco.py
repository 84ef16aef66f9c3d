"""DEIMv2-Femto with HGNetV2-Femto, for images of 416 x 416 pixels on COCO, 500 epochs.

Published: 31.0 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deimv2/deimv2_hgnetv2_femto_coco --num-gpus 4
"""

from .deimv2_hgnetv2_pico_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_femto_coco"

dataloader.image_size = (416, 416)
dataloader.train.mapper.mosaic.tile_size = 208
dataloader.train.mapper.min_box_size = 10.0

model.backbone.name = "Femto"
model.encoder.hidden_dim = 96
model.decoder.queries.num_queries = 150
model.decoder.layer.feedforward.hidden_dim = 128
