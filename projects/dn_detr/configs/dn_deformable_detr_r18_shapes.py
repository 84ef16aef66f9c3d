"""DN-DAB-Deformable-DETR at reduced size on ``deim_shapes``: trains from random weights on a CPU in minutes."""

from deim.config import with_iterations

from ...deformable_detr.configs.deformable_detr_r18_shapes import (
    dataloader,
    lr_multiplier,
    optimizer,
    schedule,
    train,
)
from .dn_deformable_detr_r50_50ep_coco import model

train.output_dir = "output/dn_deformable_detr_r18_shapes"

# Strides 8 and 16, a narrow encoder and a shallow decoder.
model.num_classes = 6
model.num_detections = 100
model.backbone.depth = 18
model.backbone.weights = ""
model.backbone.out_features = ["res3", "res4"]
model.backbone.norm = "BN"
model.backbone.freeze_at = 0
model.encoder.dim = 96
model.encoder.num_levels = 2
model.encoder.num_layers = 2
model.encoder.dim_feedforward = 384
model.decoder.num_layers = 3
model.decoder.layer.num_points = [4, 4]
model.decoder.queries.num_queries = 50

# Learned anchors need more training than selected tokens to spread over the image.
optimizer.lr = 1.5e-3
schedule.epochs = 24
schedule.flat_epochs = 14

with_iterations(train, schedule, dataloader, images=600)
