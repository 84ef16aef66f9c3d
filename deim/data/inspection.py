"""Inspection of training data: the exact batches of an epoch, and their object counts."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import OmegaConf

from deim.data.datasets.keypoints import keypoints_from_metadata
from deim.data.datasets.names import registered_name
from deim.data.loader import TrainLoader
from deim.data.mapper import channel_order
from deim.errors import ConfigError
from deim.visualization import draw_objects


def batches_from_epoch(cfg: Any, epoch: int) -> Iterator[list[dict]]:
    """Return the training batches of a run of ``cfg`` from the start of an epoch on.

    Args:
        cfg: a config with ``dataloader.train``.
        epoch: counted from 0.

    Raises:
        ConfigError: if ``epoch`` is not 0 and the data loader does not define epochs.
    """
    loader = instantiate(cfg.dataloader.train)
    if isinstance(loader, TrainLoader):
        loader.start_iter = epoch * loader.iters_per_epoch
    elif epoch:
        raise ConfigError(
            "dataloader.train is not built by deim.data.build_train_loader and does not define epochs; use --epoch 0"
        )
    return iter(loader)


def mean_objects_per_image(cfg: Any, epoch: int, count: int) -> float:
    """Return the mean number of objects per image in the first ``count`` batches of an epoch."""
    samples = [sample for batch in itertools.islice(batches_from_epoch(cfg, epoch), count) for sample in batch]
    return sum(len(sample["instances"]) for sample in samples) / len(samples)


def draw_training_batch(cfg: Any, epoch: int, output: str, batches: int, images: int) -> None:
    """Draw images of the first batch of an epoch; print its stage and the objects per image with and without Dense O2O.

    For a data loader from another package, ``epoch`` must be 0, and the first batch of the loader is drawn.

    Args:
        cfg: a recipe of this project or of detrex.
        epoch: counted from 0.
        output: path of the PNG to write.
        batches: number of batches in which objects are counted.
        images: number of images to draw.

    Raises:
        ConfigError: if ``epoch`` is outside of the run, ``batches`` is less than 1, or the data loader does not define
            epochs and ``epoch`` is not 0.
        DeimError: if the data cannot be read.
    """
    if batches < 1:
        raise ConfigError(f"the number of batches must be at least 1, got {batches}")
    schedule = instantiate(cfg.schedule) if "schedule" in cfg else None
    if schedule is not None and not 0 <= epoch < schedule.epochs:
        raise ConfigError(f"epoch {epoch} is outside of the run, which has {schedule.epochs} epochs (counted from 0)")
    first_batch = next(batches_from_epoch(cfg, epoch))
    _draw_samples(first_batch[:images], cfg.dataloader.train, output)
    size = tuple(first_batch[0]["image"].shape[-2:])
    stage = f"epoch {epoch}: {schedule.stage(epoch).value}" if schedule is not None else "the first batch"
    print(f"{stage}; {len(first_batch)} images, first image size {size}; drawn to {output}")
    print(f"objects per image over {batches} batches: {mean_objects_per_image(cfg, epoch, batches):.2f}")
    train = cfg.dataloader.train
    if OmegaConf.select(train, "mapper.mosaic") or train.get("mixup") or train.get("batch_operations"):
        without: dict[str, Any] = {"mapper": {"mosaic": None}, "mixup": None, "batch_operations": []}
        without_dense_o2o = OmegaConf.merge(cfg, {"dataloader": {"train": without}})
        print(f"without mosaic and batch operations: {mean_objects_per_image(without_dense_o2o, epoch, batches):.2f}")


def _draw_samples(samples: list[dict], loader: Any, output: str) -> None:
    """Draw the images of samples with their boxes and, if present, masks and keypoints.

    Args:
        samples: samples to draw.
        loader: config node of the data loader that made the samples.
        output: path of the PNG to write.
    """
    mapper = loader.get("mapper") or {}
    is_bgr = channel_order(mapper) == "BGR"
    name = registered_name(loader.get("dataset"))
    metadata = MetadataCatalog.get(name) if name is not None else None
    class_names = metadata.get("thing_classes") if metadata is not None else None
    definition = keypoints_from_metadata(metadata) if metadata is not None else None
    boxes = [sample["instances"].gt_boxes.tensor.numpy() for sample in samples]
    labels = [sample["instances"].gt_classes.numpy() for sample in samples]
    if class_names is None:
        highest = max((int(image_labels.max()) for image_labels in labels if len(image_labels)), default=0)
        class_names = [str(number) for number in range(highest + 1)]
    images = [
        np.ascontiguousarray(sample["image"].numpy().transpose(1, 2, 0)[..., :: -1 if is_bgr else 1])
        for sample in samples
    ]
    instances = [sample["instances"] for sample in samples]
    has_masks = all(image_instances.has("gt_masks") for image_instances in instances)
    has_keypoints = all(image_instances.has("gt_keypoints") for image_instances in instances)
    draw_objects(
        images,
        list(zip(boxes, labels, strict=True)),
        class_names,
        output,
        masks=[_drawable_masks(image_instances.gt_masks) for image_instances in instances] if has_masks else (),
        keypoints=[i.gt_keypoints.tensor.numpy() for i in instances] if has_keypoints else (),
        connections=() if definition is None else definition.connected_indices(),
    )


def _drawable_masks(masks: Any) -> list:
    """Return the masks of ``BitMasks`` as arrays (h, w), or those of ``PolygonMasks`` as polygons."""
    return list(masks.tensor.numpy()) if hasattr(masks, "tensor") else masks.polygons
