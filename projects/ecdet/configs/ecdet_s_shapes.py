"""ECDet-S at reduced size on ``deim_shapes``: trains from random weights on a CPU in minutes."""

from deim.config import with_iterations

from ...deim_dfine.configs.deim_dfine_n_shapes import dataloader, lr_multiplier, optimizer, schedule, train
from .ecdet_s_coco import model

train.output_dir = "output/ecdet_s_shapes"

# The first three blocks of the transformer, a narrow encoder and a shallow decoder.
model.num_classes = 6
model.num_detections = 100
model.backbone.weights = ""
model.backbone.out_blocks = [1, 2]
model.backbone.out_channels = 96
model.encoder.hidden_dim = 96
model.encoder.dim_feedforward = 384
model.decoder.num_layers = 2
model.decoder.layer.num_points = [3, 4, 3]
model.decoder.layer.dim_feedforward = 384
model.decoder.queries.num_queries = 50
model.decoder.queries.anchor_size = 0.15

with_iterations(train, schedule, dataloader, images=600)
