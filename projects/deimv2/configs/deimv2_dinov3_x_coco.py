"""DEIMv2-X with DINOv3 ViT-S+ on COCO, 58 epochs.

Published: 57.8 AP, from DINOv3's weights, on 4 GPUs.

    deim train --config-file deimv2/deimv2_dinov3_x_coco --num-gpus 4
"""

from detectron2.config import LazyCall as L

from deim.modeling.backbone import SpatialTuningAdapter

from .deimv2_hgnetv2_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_dinov3_x_coco"

dataloader.train.mapper.multi_scale_repeat = 3

model.backbone = L(SpatialTuningAdapter)(
    size="dinov3_vits16plus", out_blocks=[5, 8, 11], prior_channels=64, out_channels=256, weights="dinov3"
)
model.encoder.expansion = 1.25
model.encoder.depth_multiplier = 1.37
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]

optimizer.params.rules = dict(
    backbone_no_weight_decay=dict(pattern=r"^backbone\.vit\..*(norm|bias)", lr="${..backbone.lr}", weight_decay=0.0),
    backbone=dict(pattern=r"^backbone\.vit\.", lr=1e-5),
    # As in the official code, the norms of the adapter have weight decay, except for the biases of the spatial prior.
    no_weight_decay=dict(pattern=r"^(encoder|decoder)\..*(norm|bias)|^backbone\.prior\..*bias", weight_decay=0.0),
)
