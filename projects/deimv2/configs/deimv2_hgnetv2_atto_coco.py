"""DEIMv2-Atto with HGNetV2-Atto, for images of 320 x 320 pixels on COCO, 500 epochs.

Published: 23.8 AP, from an ImageNet backbone, on 4 GPUs.

    deim train --config-file deimv2/deimv2_hgnetv2_atto_coco --num-gpus 4
"""

from .deimv2_hgnetv2_pico_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_atto_coco"

dataloader.image_size = (320, 320)
dataloader.train.mapper.mosaic.tile_size = 160
dataloader.train.mapper.mosaic_prob = 0.3
dataloader.train.mapper.min_box_size = 12.0

model.backbone.name = "Atto"
model.encoder.hidden_dim = 64
model.decoder.queries.num_queries = 100
model.decoder.layer.feedforward.hidden_dim = 80

optimizer.lr = 2e-3
optimizer.params.rules.backbone.lr = 1e-3
# As in the official code, the norms of the encoder's two downsampling layers have weight decay.
optimizer.params.rules.no_weight_decay.pattern = r"^(encoder|decoder)\.(?!(input_)?downsample\.).*norm"
