"""D-FINE-S on Objects365, 36 epochs, for fine-tuning on another dataset."""

from deim.config import get_config, with_datasets, with_iterations

from .dfine_s_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/dfine_s_objects365"

datasets = get_config("common/data/objects365.py").datasets
with_datasets(dataloader, model, datasets)

optimizer.lr = 2.5e-4
optimizer.weight_decay = 1.25e-4
optimizer.params.rules.backbone.lr = 1.25e-4

schedule.epochs = 36
schedule.no_aug_epochs = 0
schedule.checkpoint_epochs = 1

with_iterations(train, schedule, dataloader, images=datasets.num_images)
