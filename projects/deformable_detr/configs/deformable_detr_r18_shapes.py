"""Two-stage Deformable DETR at reduced size on ``deim_shapes``: trains from random weights on a CPU in minutes."""

from deim.config import with_iterations, without_dense_o2o

from ...deim_dfine.configs.deim_dfine_n_shapes import dataloader, lr_multiplier, optimizer, schedule, train
from .deformable_detr_r50_two_stage_50ep_coco import model

train.output_dir = "output/deformable_detr_r18_shapes"

dataloader = without_dense_o2o(dataloader)
schedule.epochs = 16
schedule.eval_epochs = schedule.checkpoint_epochs = 7
schedule.dense_epochs = [0, 0]

# Maps of strides 8 and 16, width 96, two encoder layers and two decoder layers.
model.num_classes = 6
model.backbone.depth = 18
model.backbone.weights = ""
model.backbone.out_features = ["res3", "res4"]
model.backbone.norm = "BN"
model.backbone.freeze_at = 0
model.encoder.dim = 96
model.encoder.num_levels = 2
model.encoder.num_layers = 2
model.encoder.dim_feedforward = 384
model.encoder.dropout = 0.0
model.decoder.num_layers = 2
model.decoder.layer.num_points = [4, 4]
model.decoder.queries.num_queries = 50
model.decoder.queries.anchor_size = 0.15

optimizer.lr = 1e-3
optimizer.params.rules = dict(no_weight_decay=dict(pattern=r"norm", weight_decay=0.0))

with_iterations(train, schedule, dataloader, images=600)
