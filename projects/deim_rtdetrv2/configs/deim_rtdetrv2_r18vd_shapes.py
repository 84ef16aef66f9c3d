"""DEIM-RT-DETRv2-R18 at reduced size on ``deim_shapes``: trains from random weights on a CPU in minutes."""

from deim.config import with_iterations

from ...deim_dfine.configs.deim_dfine_n_shapes import dataloader, lr_multiplier, optimizer, schedule, train
from .deim_rtdetrv2_r18vd_120e_coco import model

train.output_dir = "output/deim_rtdetrv2_r18vd_shapes"

schedule.epochs = 16
schedule.eval_epochs = schedule.checkpoint_epochs = 7

# Strides 8 and 16, a narrow encoder and a shallow decoder.
model.num_classes = 6
model.num_detections = 100
model.backbone.weights = ""
model.backbone.out_features = ["stage2", "stage3"]
model.encoder.hidden_dim = 96
model.encoder.dim_feedforward = 384
model.decoder.input_proj.in_channels = [96, 96]
model.decoder.layer.dim = 96
model.decoder.layer.dim_feedforward = 384
model.decoder.num_layers = 2
model.decoder.layer.num_points = [4, 4]
model.decoder.queries.num_queries = 50
model.decoder.queries.anchor_size = 0.15

optimizer.lr = 1e-3
optimizer.params.rules = dict(no_weight_decay=dict(pattern=r"norm", weight_decay=0.0))

with_iterations(train, schedule, dataloader, images=600)
