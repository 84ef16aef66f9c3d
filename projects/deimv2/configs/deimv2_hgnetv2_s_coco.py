"""DEIMv2-S with HGNetV2-B0 on COCO, 132 epochs.

The authors publish a config, but no result. Training starts from an ImageNet backbone.

    deim train --config-file deimv2/deimv2_hgnetv2_s_coco --num-gpus 4
"""

from deim.config import with_dense_o2o

from ...deim_dfine.configs.deim_dfine_s_coco import dataloader, lr_multiplier, optimizer, schedule, train
from .deimv2_hgnetv2_m_coco import model

train.output_dir = "output/deimv2_hgnetv2_s_coco"

dataloader = with_dense_o2o(dataloader, copy_blend=True)

model.backbone.name = "B0"
model.encoder.fusion = "split_elan"
model.encoder.expansion = 0.5
model.encoder.depth_multiplier = 0.34
model.decoder.num_layers = 3
model.criterion.matcher.late_epoch = 100
