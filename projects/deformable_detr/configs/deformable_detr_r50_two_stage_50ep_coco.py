"""Two-stage Deformable DETR with iterative box refinement, R50, on COCO, 50 epochs.

Published: 46.9 AP, from an ImageNet backbone, on V100 for 340 GPU hours.

    deim train --config-file deformable_detr/deformable_detr_r50_two_stage_50ep_coco --num-gpus 8
"""

from detectron2.config import LazyCall as L

from deim.modeling.losses import Supervision
from deim.modeling.queries import RegionProposals

from .deformable_detr_r50_refine_50ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deformable_detr_r50_two_stage_50ep_coco"

model.decoder.queries = L(RegionProposals)(
    dim="${..layer.dim}",
    num_classes="${...num_classes}",
    num_queries=300,
    activation="${..layer.activation}",
    mixed_selection=False,
)
model.decoder.refinement.size_bias = 0.0
model.criterion.supervision = [
    *model.criterion.supervision,
    L(Supervision)(group="encoder", suffix="_enc", class_agnostic=True),
]
