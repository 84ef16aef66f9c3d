"""H-Deformable-DETR with the "tricks" of its authors, R50, on COCO, 12 epochs.

Published: 48.7 AP, from an ImageNet backbone, on 8 GPUs.

    deim train --config-file h_deformable_detr/h_deformable_detr_r50_12ep_coco --num-gpus 8
"""

from deim.config import with_hybrid_branch, with_iterations

from ...deformable_detr.configs.deformable_detr_r50_two_stage_50ep_coco import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    schedule,
    train,
)

train.output_dir = "output/h_deformable_detr_r50_12ep_coco"

dataloader.train.total_batch_size = 16

model = with_hybrid_branch(model, num_queries=1500, repeats=6, weight=1.0)
model.encoder.dim_feedforward = 2048
# The "tricks" of H-Deformable-DETR's authors.
model.encoder.dropout = 0.0
model.decoder.queries.mixed_selection = True
model.decoder.refinement.look_forward_twice = True

schedule.epochs = 12
schedule.drop_epochs = [11]

with_iterations(train, schedule, dataloader)
