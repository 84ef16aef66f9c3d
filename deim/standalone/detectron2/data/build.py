"""Records of data sets, and the loader that evaluation reads."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch.utils.data as torchdata
from detectron2.data.catalog import DatasetCatalog
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler

__all__ = ["build_detection_test_loader", "get_detection_dataset_dicts", "trivial_batch_collator"]


def get_detection_dataset_dicts(names, filter_empty=True, min_keypoints=0, proposal_files=None, check_consistency=True):
    """The records of one or several registered data sets, joined.

    Args:
        names: a name or a list of names.
        filter_empty: drop images without annotations other than crowds.
    """
    names = [names] if isinstance(names, str) else list(names)
    records = []
    for name in names:
        loaded = DatasetCatalog.get(name)
        if not len(loaded):
            raise AssertionError(f"Dataset '{name}' is empty!")
        records.append(loaded)
    joined = list(itertools.chain.from_iterable(records))
    if filter_empty and "annotations" in joined[0]:
        kept = [r for r in joined if any(a.get("iscrowd", 0) == 0 for a in r["annotations"])]
        logging.getLogger(__name__).info(
            f"Removed {len(joined) - len(kept)} images with no usable annotations. {len(kept)} images left."
        )
        joined = kept
    if not joined:
        raise AssertionError(f"No valid data found in {','.join(names)}.")
    return joined


def build_detection_test_loader(
    dataset: list[Any] | torchdata.Dataset,
    *,
    mapper: Callable[[dict], Any],
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> torchdata.DataLoader:
    """A loader that goes once over ``dataset``, split over the processes in contiguous parts."""
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
    """A batch is the list of its samples."""
    return batch
