"""ECPose-L with ECViT-S on the persons of COCO, 74 epochs.

Published: 73.5 AP, from an ECViT that is distilled for poses, on 4 GPUs.
The AP is that of keypoints.

    deim train --config-file ecpose/ecpose_l_coco --num-gpus 4
"""

from deim.config import get_config, with_iterations

from ...ecdet.configs.ecdet_l_coco import lr_multiplier, optimizer, schedule, train

train.output_dir = "output/ecpose_l_coco"
train.best_metric = "keypoints/AP"
train.model_ema.warmup_iters = 2000
# Two steps of 16 images, as in the official code.
train.accumulation_steps = 2

dataloader = get_config("common/data/coco_keypoints.py").dataloader
model = get_config("common/models/ecpose.py").model

optimizer.params.rules.backbone.lr = 2.5e-6

schedule.epochs = 74
schedule.warmup = "linear"
schedule.warmup_iters = 500
schedule.flat_epochs = 0
schedule.lr_gamma = 1.0
schedule.dense_epochs = [4, 48]
schedule.no_aug_epochs = 2
schedule.final_from_best = False
schedule.checkpoint_epochs = 12

with_iterations(train, schedule, dataloader, images=56_599)
