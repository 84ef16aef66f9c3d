"""DEIMv2-Atto at reduced size on ``deim_shapes``: trains from random weights on a CPU in minutes."""

from deim.config import with_iterations

from ...deim_dfine.configs.deim_dfine_n_shapes import dataloader, lr_multiplier, optimizer, schedule, train
from .deimv2_hgnetv2_atto_coco import model

train.output_dir = "output/deimv2_hgnetv2_atto_shapes"

dataloader.train.mixup = None

# Strides 8 and 16.
model.num_classes = 6
model.num_detections = 100
model.backbone.weights = ""
model.backbone.out_features = ["stage2"]
model.decoder.num_layers = 2
model.decoder.queries.num_queries = 50
model.decoder.queries.anchor_size = 0.15
model.criterion.matcher.late_epoch = 14

optimizer.lr = 4e-3
optimizer.params.rules.backbone.lr = 4e-3

schedule.epochs = 16
schedule.flat_epochs = 6
schedule.dense_epochs = [4, 7]
schedule.eval_epochs = 7
schedule.checkpoint_epochs = 7

with_iterations(train, schedule, dataloader, images=600)
