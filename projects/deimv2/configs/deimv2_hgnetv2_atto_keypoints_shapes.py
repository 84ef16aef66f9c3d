"""DEIMv2-Atto with keypoints, at reduced size on ``deim_shapes`` with keypoints (``deim make-shapes --masks --keypoints``).

Reaches 65.5 to 68.3 AP of keypoints and 82.0 to 84.2 AP of boxes on the validation images (seeds 0 to 4, one thread).
"""

from deim.config import with_iterations, with_keypoint_data, with_keypoints

from .deimv2_hgnetv2_atto_shapes import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_atto_keypoints_shapes"
train.best_metric = "keypoints/AP"

# For five keypoints. The default weights are those for the 17 keypoints of COCO persons.
model = with_keypoints(model, num_keypoints=5)
model.criterion.losses.loss_keypoints.weight = 2.0
model.criterion.losses.loss_oks.weight = 2.0
model.criterion.matcher.further_costs[0].l1_weight = 2.0
model.criterion.matcher.further_costs[0].oks_weight = 2.0
model.criterion.matcher.late_epoch = 32

# The images at their full size: the detections need keypoints with errors of about a pixel.
dataloader.image_size = (192, 192)
dataloader.train.mapper.mosaic.tile_size = 96
dataloader = with_keypoint_data(dataloader)
dataloader.evaluator.kpt_oks_sigmas = None  # those of the loss

# Longer than without keypoints; an evaluation takes place directly before the final epochs.
schedule.epochs = 36
schedule.flat_epochs = 14
schedule.dense_epochs = [8, 14]
schedule.eval_epochs = 17
schedule.checkpoint_epochs = 17

with_iterations(train, schedule, dataloader, images=600)
