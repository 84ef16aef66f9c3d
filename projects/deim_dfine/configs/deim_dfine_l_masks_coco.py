"""DEIM-D-FINE-L with masks on COCO, 75 epochs from the weights for boxes.

No results exist yet. The learning rates and the weights of the losses are those of D-FINE-seg (arXiv 2602.23043).

    deim train --config-file deim_dfine/deim_dfine_l_masks_coco --num-gpus 4
"""

from deim.config import with_iterations, with_mask_data, with_masks

from .deim_dfine_l_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_dfine_l_masks_coco"
train.best_metric = "segm/AP"
# The published weights of deim_dfine_l_coco; the mask head starts from random weights.
train.init_checkpoint = "coco"

model = with_masks(model)
dataloader = with_mask_data(dataloader)

optimizer.lr = 1.6e-4
optimizer.params.rules.backbone.lr = 1e-5

# The length is that of D-FINE-seg, the stages are those of ECSeg.
schedule.epochs = 75
schedule.flat_epochs = 36
schedule.dense_epochs = [0, 36]
schedule.no_aug_epochs = 2

with_iterations(train, schedule, dataloader)
