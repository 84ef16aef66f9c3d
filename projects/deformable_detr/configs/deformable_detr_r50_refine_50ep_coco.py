"""Deformable DETR with iterative box refinement, R50, on COCO, 50 epochs.

Published: 46.2 AP, from an ImageNet backbone, on V100 for 325 GPU hours.

    deim train --config-file deformable_detr/deformable_detr_r50_refine_50ep_coco --num-gpus 8
"""

from detectron2.config import LazyCall as L

from deim.modeling.decoder import IterativeRefinement

from .deformable_detr_r50_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deformable_detr_r50_refine_50ep_coco"

model.decoder.refinement = L(IterativeRefinement)(
    dim="${..layer.dim}",
    num_classes="${...num_classes}",
    num_layers="${..num_layers}",
    activation="${..layer.activation}",
    size_bias=-2.0,
    look_forward_twice=False,
)
