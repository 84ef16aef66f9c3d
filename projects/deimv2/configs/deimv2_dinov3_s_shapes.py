"""DEIMv2-S at reduced size on ``deim_shapes``: trains from random weights on a CPU in minutes."""

from deim.config import with_dense_o2o, with_iterations

from ...deim_dfine.configs.deim_dfine_n_shapes import dataloader, lr_multiplier, optimizer, schedule, train
from .deimv2_dinov3_s_coco import model

train.output_dir = "output/deimv2_dinov3_s_shapes"

with_dense_o2o(dataloader, copy_blend=True)
dataloader.train.mapper.mosaic.scale = (1.0, 1.5)

# The first three blocks of the transformer, a narrow encoder and a shallow decoder.
model.num_classes = 6
model.num_detections = 100
model.backbone.weights = ""
model.backbone.out_blocks = [0, 1, 2]
model.encoder.hidden_dim = 96
model.encoder.dim_feedforward = 384
model.decoder.num_layers = 2
model.decoder.layer.num_points = [3, 4, 3]
model.decoder.layer.feedforward.hidden_dim = 192
model.decoder.queries.num_queries = 50
model.decoder.queries.anchor_size = 0.15
model.criterion.matcher.late_epoch = 15

with_iterations(train, schedule, dataloader, images=600)
