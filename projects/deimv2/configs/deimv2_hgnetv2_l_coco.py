"""DEIMv2-L with HGNetV2-B4 on COCO, 58 epochs.

The authors publish a config, but no result. Training starts from an ImageNet backbone.

    deim train --config-file deimv2/deimv2_hgnetv2_l_coco --num-gpus 4
"""

from deim.config import get_config, with_dense_o2o

from ...deim_dfine.configs.deim_dfine_l_coco import dataloader, lr_multiplier, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_l_coco"

model = get_config("common/models/deimv2.py").model
dataloader = with_dense_o2o(dataloader, copy_blend=True)
