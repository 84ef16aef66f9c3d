"""Looking at training data: the very batches of an epoch, and how many objects they hold."""

import itertools
from collections.abc import Iterator
from typing import Any

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import OmegaConf

from deim.data.loader import TrainLoader
from deim.errors import ConfigError
from deim.visualization import draw_objects


def batches_of_epoch(cfg: Any, epoch: int) -> Iterator[list[dict]]:
    """The batches that a run of ``cfg`` sees from the start of ``epoch`` (counted from 0) on.

    Raises:
        ConfigError: the loader has no epochs.
    """
    loader = instantiate(cfg.dataloader.train)
    if not isinstance(loader, TrainLoader):
        raise ConfigError("dataloader.train is not built by deim.data.build_train_loader, and has no epochs")
    loader.start_iter = epoch * loader.iters_per_epoch
    return iter(loader)


def objects_per_image(cfg: Any, epoch: int, count: int) -> float:
    """Mean number of objects in the images of the first ``count`` batches of an epoch."""
    samples = [s for batch in itertools.islice(batches_of_epoch(cfg, epoch), count) for s in batch]
    return sum(len(sample["instances"]) for sample in samples) / len(samples)


def draw_training_batch(cfg: Any, epoch: int, output: str, batches: int, images: int) -> None:
    """Draw images of an epoch's first batch and print its stage and its objects per image, with and
    without Dense O2O.

    Args:
        cfg: a recipe.
        epoch: counted from 0.
        output: the picture to write.
        batches: how many to count objects in.
        images: how many to draw.

    Raises:
        DeimError: something that the user can mend is wrong.
    """
    if not 0 <= epoch < cfg.schedule.epochs:
        raise ConfigError(f"epoch {epoch} is not in the run of {cfg.schedule.epochs} epochs (counted from 0)")
    first = next(batches_of_epoch(cfg, epoch))
    names = MetadataCatalog.get(cfg.dataloader.train.dataset.name).thing_classes
    shown = first[:images]
    boxes = [sample["instances"].gt_boxes.tensor.numpy() for sample in shown]
    classes = [sample["instances"].gt_classes.numpy() for sample in shown]
    pictures = [sample["image"].numpy().transpose(1, 2, 0) for sample in shown]
    draw_objects(pictures, list(zip(boxes, classes, strict=True)), names, output)
    stage = instantiate(cfg.schedule).stage(epoch)
    print(
        f"epoch {epoch}: {stage.value}; {len(first)} images of {tuple(first[0]['image'].shape[-2:])}, drawn in {output}"
    )
    sparse = OmegaConf.merge(cfg, {"dataloader": {"train": {"mapper": {"mosaic": None}, "mixup": None}}})
    print(f"objects per image over {batches} batches: {objects_per_image(cfg, epoch, batches):.2f}")
    print(f"without mosaic and mixup: {objects_per_image(sparse, epoch, batches):.2f}")
