"""Loading of dataset records, and the data loader for evaluation."""

import functools
import itertools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch.utils.data as torchdata
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from tabulate import tabulate
from termcolor import colored

__all__ = ["build_detection_test_loader", "get_detection_dataset_dicts", "trivial_batch_collator"]

logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(names, filter_empty=True, min_keypoints=0, proposal_files=None, check_consistency=True):
    """Load the records of one or several registered datasets.

    Args:
        names: a name or a list of names.
        filter_empty: whether to remove images without annotations or with only crowd annotations.
        min_keypoints: images with fewer visible keypoints are removed; 0 keeps all.
        proposal_files: must be None; the bundled subset of detectron2 does not support proposals.
        check_consistency: whether to check that the datasets have the same classes and to log the instances per class.

    Returns:
        The records. Torch datasets are returned unchanged, or concatenated.

    Raises:
        AssertionError: if ``names`` or a dataset is empty, no record remains, or a ``category_id`` is out of range.
        KeyError: if a dataset is not registered.
        NotImplementedError: if ``proposal_files`` is given.
        ValueError: if the datasets have different classes.
    """
    names = [names] if isinstance(names, str) else names
    if not len(names):
        raise AssertionError("get_detection_dataset_dicts needs at least one name")
    if proposal_files is not None:
        raise NotImplementedError("The bundled subset of detectron2 does not load proposals; install detectron2.")
    datasets = [DatasetCatalog.get(name) for name in names]
    if isinstance(datasets[0], torchdata.Dataset):
        return datasets[0] if len(datasets) == 1 else torchdata.ConcatDataset(datasets)
    for name, dataset in zip(names, datasets, strict=True):
        if not len(dataset):
            raise AssertionError(f"Dataset '{name}' is empty!")
    records = list(itertools.chain.from_iterable(datasets))
    if "annotations" in records[0]:
        if filter_empty:
            records = _without_empty_images(records)
        if min_keypoints > 0:
            records = _with_keypoints(records, min_keypoints)
        if check_consistency and MetadataCatalog.get(names[0]).get("thing_classes") is not None:
            _check_classes(records, names)
    if not records:
        raise AssertionError(f"No valid data found in {','.join(names)}.")
    return records


def _without_empty_images(records: list[dict]) -> list[dict]:
    nonempty = [r for r in records if any(a.get("iscrowd", 0) == 0 for a in r["annotations"])]
    logger.info(
        f"Removed {len(records) - len(nonempty)} images with no usable annotations. {len(nonempty)} images left."
    )
    return nonempty


def _with_keypoints(records: list[dict], min_keypoints: int) -> list[dict]:
    def count_visible(record: dict) -> int:
        return sum((np.array(a["keypoints"][2::3]) > 0).sum() for a in record["annotations"] if "keypoints" in a)

    filtered = [record for record in records if count_visible(record) >= min_keypoints]
    logger.info(f"Removed {len(records) - len(filtered)} images with fewer than {min_keypoints} keypoints.")
    return filtered


def _check_classes(records: list[dict], names: list[str]) -> None:
    """Log the number of instances of each class, and check that all datasets have the same classes."""
    classes = MetadataCatalog.get(names[0]).thing_classes
    for name in names:
        other_classes = MetadataCatalog.get(name).get("thing_classes")
        if other_classes is None:
            return
        if other_classes != classes:
            logger.error(f"Dataset {name} has the classes {other_classes}, and {names[0]} has {classes}")
            raise ValueError("Datasets have different metadata 'thing_classes'!")
    counts = np.zeros(len(classes), dtype=int)
    for record in records:
        for annotation in record["annotations"]:
            if annotation.get("iscrowd", 0):
                continue
            index = annotation["category_id"]
            if not 0 <= index < len(classes):
                raise AssertionError(f"Got an invalid category_id={index} for a dataset of {len(classes)} classes")
            counts[index] += 1
    _log_histogram(classes, counts)


def _log_histogram(classes: list[str], counts: np.ndarray) -> None:
    width = min(6, len(classes) * 2)
    names = [name if len(name) <= 13 else f"{name[:11]}.." for name in classes]
    cells: list = list(itertools.chain.from_iterable(zip(names, counts.tolist(), strict=True)))
    cells += [None] * (width - len(cells) % width)
    if len(classes) > 1:
        cells += ["total", int(counts.sum())]
    table = tabulate(
        itertools.zip_longest(*[cells[start::width] for start in range(width)]),
        headers=["category", "#instances"] * (width // 2),
        tablefmt="pipe",
        numalign="left",
        stralign="center",
    )
    _log_once(f"Distribution of instances among all {len(classes)} categories:\n" + colored(table, "cyan"))


@functools.cache
def _log_once(message: str) -> None:
    logger.info(message)


def build_detection_test_loader(
    dataset: list[Any] | torchdata.Dataset,
    *,
    mapper: Callable[[dict], Any],
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> torchdata.DataLoader:
    """Build a data loader that reads a dataset once.

    Args:
        dataset: a list of records, or a map-style dataset.
        mapper: a function that is applied to each entry, or None.
        sampler: sampler of the indices. By default, each rank reads a contiguous part of the dataset.
        batch_size: number of entries per batch.
        num_workers: number of worker processes.
        collate_fn: function from a list of entries to a batch. By default, the list is the batch.

    Raises:
        AssertionError: if the dataset is empty.
        NotImplementedError: if the dataset is an IterableDataset.
    """
    if isinstance(dataset, torchdata.IterableDataset):
        raise NotImplementedError(
            "The bundled subset of detectron2 does not load an IterableDataset for evaluation; install detectron2."
        )
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    mapped = dataset if mapper is None else MapDataset(dataset, mapper)
    return torchdata.DataLoader(
        mapped,
        batch_size=batch_size,
        sampler=InferenceSampler(len(mapped)) if sampler is None else sampler,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )


def trivial_batch_collator(batch):
    """Return the list of samples as the batch."""
    return batch
