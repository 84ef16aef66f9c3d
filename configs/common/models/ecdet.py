"""ECDet, size L; the recipes of other sizes override it."""

from detectron2.config import LazyCall as L

from deim.modeling.backbone import ECViT

from .deimv2 import model

model.backbone = L(ECViT)(size="ecvits", out_blocks=[10, 11], out_channels=256, weights="ecdet")
model.encoder.attention_activation = "silu"
model.encoder.expansion = 0.75

model.decoder.layer.norm = None
model.decoder.layer.dim_feedforward = 1024
model.decoder.layer.feedforward = None
model.decoder.layer.xavier = False
model.decoder.num_layers = 4

model.criterion.matcher.late_cost = None
model.criterion.matcher.late_epoch = None

model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
