"""DEIM-D-FINE-X with masks on COCO, 75 epochs from the weights for boxes.

No results exist yet. The learning rates and the weights of the losses are those of D-FINE-seg (arXiv 2602.23043).

    deim train --config-file deim_dfine/deim_dfine_x_masks_coco --num-gpus 4
"""

from deim.config import with_iterations, with_mask_data, with_masks

from .deim_dfine_l_masks_coco import schedule, train
from .deim_dfine_x_coco import dataloader, lr_multiplier, model, optimizer

train.output_dir = "output/deim_dfine_x_masks_coco"

model = with_masks(model)
dataloader = with_mask_data(dataloader)

optimizer.lr = 2e-4
optimizer.params.rules.backbone.lr = 2e-6

with_iterations(train, schedule, dataloader)
