"""DN-DAB-Deformable-DETR with deformable attention in the encoder only, R50, on COCO, 50 epochs.

Published: 48.6 AP, from an ImageNet backbone, on 16 GPUs.

    deim train --config-file dn_detr/dn_deformable_encoder_detr_r50_50ep_coco --num-gpus 8
"""

from detectron2.config import LazyCall as L

from deim.modeling.encoder import DeformableEncoder

from .dn_detr_r50_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dn_deformable_encoder_detr_r50_50ep_coco"

model.backbone.out_features = ["res3", "res4", "res5"]
model.encoder = L(DeformableEncoder.for_backbone)(
    # None: names and widths of all feature maps of the backbone
    in_features=None,
    in_channels=None,
    dim=256,
    num_levels=4,
    num_layers=6,
    num_heads=8,
    num_points=4,
    dim_feedforward=2048,
    dropout=0.0,
    activation="relu",
    temperature=20.0,
    position_offset=0.0,
)
# Each map has separate cross-attention.
model.decoder.layer.num_levels = "${...encoder.num_levels}"
model.decoder.queries.num_patterns = 3
