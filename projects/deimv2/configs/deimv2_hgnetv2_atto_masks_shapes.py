"""DEIMv2-Atto with masks, at reduced size on ``deim_shapes`` with masks (``deim make-shapes --masks --keypoints``).

Reaches 49.4 to 59.4 AP of masks and 59.5 to 67.5 AP of boxes on the validation images (seeds 0 to 4, one thread).
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
model.criterion.matcher.late_epoch = 21
dataloader = with_mask_data(dataloader, mask_stride=2)

# Longer than without masks; an evaluation takes place directly before the final epochs.
schedule.epochs = 24
schedule.flat_epochs = 9
schedule.dense_epochs = [6, 10]
schedule.eval_epochs = 11
schedule.checkpoint_epochs = 11

with_iterations(train, schedule, dataloader, images=600)
