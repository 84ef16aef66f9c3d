"""DEIM-D-FINE-S on CrowdHuman, with COCO's schedule; set ``train.init_checkpoint`` to fine-tune."""

from deim.config import get_config, with_datasets, with_iterations

from .deim_dfine_s_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_dfine_s_crowdhuman"

datasets = get_config("common/data/crowdhuman.py").datasets
with_datasets(dataloader, model, datasets)

with_iterations(train, schedule, dataloader, images=datasets.num_images)
