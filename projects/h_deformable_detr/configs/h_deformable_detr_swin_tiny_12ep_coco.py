"""H-Deformable-DETR with the "tricks" of its authors, Swin-T, on COCO, 12 epochs.

Published: 50.6 AP, from an ImageNet backbone, on 8 GPUs.

    deim train --config-file h_deformable_detr/h_deformable_detr_swin_tiny_12ep_coco --num-gpus 8
"""

from detectron2.config import LazyCall as L

from deim.modeling.backbone import build_swin

from .h_deformable_detr_r50_12ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/h_deformable_detr_swin_tiny_12ep_coco"

model.backbone = L(build_swin)(size="tiny", out_indices=[1, 2, 3], drop_path_rate=0.2, weights="imagenet")
