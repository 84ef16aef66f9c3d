"""DEIMv2-Atto with masks, at reduced size on ``deim_shapes`` with masks (``deim make-shapes --masks --keypoints``).

Reaches 56.1 to 65.2 AP of masks and 67.4 to 74.8 AP of boxes on the validation images (seeds 0 to 4, one thread).
"""

from deim.config import with_iterations, with_mask_data, with_masks

from .deimv2_hgnetv2_atto_shapes import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deimv2_hgnetv2_atto_masks_shapes"
train.best_metric = "segm/AP"

# The objects are small: the images at their full size, and masks of half the image size. Queries are matched by classes and
# boxes only.
dataloader.image_size = (192, 192)
dataloader.train.mapper.mosaic.tile_size = 96
model = with_masks(model)
model.decoder.heads.masks.upsampling = 4
model.criterion.matcher.further_costs = []
model.criterion.matcher.late_epoch = 28
dataloader = with_mask_data(dataloader, mask_stride=2)

# Longer than without masks; an evaluation takes place directly before the final epochs.
schedule.epochs = 32
schedule.flat_epochs = 12
schedule.dense_epochs = [7, 12]
schedule.eval_epochs = 15
schedule.checkpoint_epochs = 15

with_iterations(train, schedule, dataloader, images=600)
