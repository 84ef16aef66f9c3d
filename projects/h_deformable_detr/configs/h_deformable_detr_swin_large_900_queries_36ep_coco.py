"""H-Deformable-DETR with the "tricks" of its authors, Swin-L, 900 queries, on COCO, 36 epochs.

Published: 57.4 AP, from an ImageNet-22k backbone, on 8 GPUs.

    deim train --config-file h_deformable_detr/h_deformable_detr_swin_large_900_queries_36ep_coco --num-gpus 8
"""

from .h_deformable_detr_swin_large_36ep_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/h_deformable_detr_swin_large_900_queries_36ep_coco"

model.decoder.queries.num_queries = 900
