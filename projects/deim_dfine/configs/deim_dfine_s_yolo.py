"""DEIM-D-FINE-S on a YOLO dataset, with COCO's schedule; set ``train.init_checkpoint`` to fine-tune."""

from deim.config import get_config, with_datasets, with_iterations

from .deim_dfine_s_coco import dataloader, lr_multiplier, model, optimizer, schedule, train

train.output_dir = "output/deim_dfine_s_yolo"

with_datasets(dataloader, model, get_config("common/data/yolo.py").datasets)

with_iterations(train, schedule, dataloader)
