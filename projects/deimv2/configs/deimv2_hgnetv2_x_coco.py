"""DEIMv2-X with HGNetV2-B5 on COCO, 58 epochs.

The authors publish a config, but no result. Training starts from an ImageNet backbone.

    deim train --config-file deimv2/deimv2_hgnetv2_x_coco --num-gpus 4
"""

from deim.config import with_dense_o2o

from ...deim_dfine.configs.deim_dfine_x_coco import dataloader, lr_multiplier, optimizer, schedule, train
from .deimv2_hgnetv2_l_coco import model

train.output_dir = "output/deimv2_hgnetv2_x_coco"

dataloader = with_dense_o2o(dataloader, copy_blend=True)

model.backbone.name = "B5"
model.backbone.freeze_at = 1
model.backbone.freeze_norm = True
model.encoder.hidden_dim = 384
model.encoder.dim_feedforward = 2048
model.decoder.layer.dim = 256
model.decoder.refinement.reg_scale = 8.0
