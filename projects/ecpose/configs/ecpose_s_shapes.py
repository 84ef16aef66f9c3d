"""ECPose-S at reduced size on ``deim_shapes`` with keypoints: trains from random weights on a CPU in minutes.

deim make-shapes datasets/deim_shapes --masks --keypoints
"""

from deim.config import with_iterations, with_keypoint_data

from ...ecdet.configs.ecdet_s_shapes import dataloader, lr_multiplier, optimizer, schedule, train
from .ecpose_s_coco import model

train.output_dir = "output/ecpose_s_shapes"
train.best_metric = "keypoints/AP"

dataloader = with_keypoint_data(dataloader)
dataloader.train.dataset.min_keypoints = 1
dataloader.evaluator.tasks = ("keypoints",)

# The first three blocks of the transformer, a narrow encoder and a shallow decoder.
model.num_classes = 6
model.num_detections = 100
model.backbone.weights = ""
model.backbone.out_blocks = [1, 2]
model.backbone.out_channels = 96
model.encoder.hidden_dim = 96
model.encoder.dim_feedforward = 384
model.decoder.num_layers = 2
model.decoder.layer.dim_feedforward = 384
model.decoder.queries.num_queries = 50
model.decoder.queries.num_keypoints = 5
model.decoder.denoising.num_labels = 0
# With the noise of the official code, the model converges far more slowly.
model.decoder.denoising.unit_directions = True

# Far below the rates of the small recipes for boxes, at which the losses of keypoints rise again.
optimizer.lr = 5e-4
optimizer.params.rules.backbone.lr = 5e-4

with_iterations(train, schedule, dataloader, images=600)
