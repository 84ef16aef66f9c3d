"""DEIM-D-FINE-N at reduced size on ``deim_shapes``: trains from random weights on a CPU in minutes."""

from deim.config import with_iterations

from .deim_dfine_n_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_dfine_n_shapes"
train.device = "cpu"
train.amp.enabled = False
train.model_ema.decay = 0.99
train.model_ema.warmup_iters = 100

dataloader.image_size = (128, 128)
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 1
dataloader.test.total_batch_size = 20
dataloader.test.num_workers = 1
for split, loader in (("train", dataloader.train), ("val", dataloader.test)):
    loader.dataset.names = f"deim_shapes_{split}"
    loader.dataset.json_file = f"datasets/deim_shapes/annotations/instances_{split}.json"
    loader.dataset.image_root = f"datasets/deim_shapes/{split}"
# The objects are small: no zoom-out augmentation, and mosaics that do not shrink them further.
dataloader.train.mapper.strong = []
dataloader.train.mapper.mosaic.tile_size = 64
dataloader.train.mapper.mosaic.scale = (1.0, 1.5)

# Strides 8 and 16, narrower and shallower than N.
model.num_classes = 6
model.num_detections = 100
model.backbone.weights = ""
model.backbone.out_features = ["stage2", "stage3"]
model.encoder.hidden_dim = 96
model.decoder.input_proj.in_channels = [96, 96]
model.decoder.layer.dim_feedforward = 384
model.decoder.num_layers = 2
model.decoder.layer.num_points = [4, 4]
model.decoder.queries.num_queries = 50

# For random weights: anchors of the objects' size, a high learning rate with long warm-up, and Dense O2O only after the
# model detects the first objects (docs/small_data.md).
model.decoder.queries.anchor_size = 0.15
optimizer.lr = 2e-3
optimizer.params.rules.backbone.lr = 2e-3

schedule.epochs = 18
schedule.flat_epochs = 7
schedule.dense_epochs = [5, 8]
schedule.no_aug_epochs = 2
schedule.final_from_best = True
schedule.lr_gamma = 0.05
schedule.warmup_iters = 200
# The final epochs start from the best evaluated weights, so an evaluation takes place directly before them.
schedule.eval_epochs = 8
schedule.checkpoint_epochs = 8

with_iterations(train, schedule, dataloader, images=600)
