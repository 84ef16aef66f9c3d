"""DEIMv2-Atto with keypoints, at reduced size on ``deim_shapes`` with keypoints (``deim make-shapes --masks --keypoints``).

Reaches 30.1 AP of keypoints and 52.3 AP of boxes on the validation images.
"""

from deim.config import with_keypoint_data, with_keypoints

from .deimv2_hgnetv2_atto_shapes import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_atto_keypoints_shapes"
train.best_metric = "keypoints/AP"

model = with_keypoints(model, num_keypoints=5)
dataloader = with_keypoint_data(dataloader)
dataloader.evaluator.kpt_oks_sigmas = [0.05] * 5
