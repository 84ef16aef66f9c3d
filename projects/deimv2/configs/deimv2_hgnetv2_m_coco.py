"""DEIMv2-M with HGNetV2-B2 on COCO, 102 epochs.

The authors publish a config, but no result. Training starts from an ImageNet backbone.

    deim train --config-file deimv2/deimv2_hgnetv2_m_coco --num-gpus 4
"""

from deim.config import with_dense_o2o

from ...deim_dfine.configs.deim_dfine_m_coco import dataloader, lr_multiplier, optimizer, schedule, train
from .deimv2_hgnetv2_l_coco import model

train.output_dir = "output/deimv2_hgnetv2_m_coco"

dataloader = with_dense_o2o(dataloader, copy_blend=True)

model.backbone.name = "B2"
model.backbone.learnable_affine = True
model.encoder.depth_multiplier = 0.67
model.decoder.num_layers = 4
model.criterion.matcher.late_epoch = 80
