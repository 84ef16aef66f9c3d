"""Memory growth of a data loader worker over an epoch."""

from collections.abc import Iterator, Sequence

import numpy as np
import psutil
import torch
from detectron2.structures import BoxMode
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset

from deim.data.records import CompactRecords, Records, annotation_arrays


def synthetic_records(count: int, objects: int = 7) -> list[dict]:
    """Return ``count`` dataset records in the format of detectron2's reader, with ``objects`` annotations each."""
    rng = np.random.default_rng(0)
    return [
        {
            "file_name": f"datasets/coco/train2017/{number:012d}.jpg",
            "height": 480,
            "width": 640,
            "image_id": number,
            "annotations": [
                {"bbox": [x, y, 30.0, 40.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": number % 80, "iscrowd": 0}
                for x, y in rng.uniform(0, 400, (objects, 2)).tolist()
            ],
        }
        for number in range(count)
    ]


class MemoryProbe(Dataset):
    """A dataset that reads the annotations of a record.

    Every thousandth item is the private memory of the process in bytes; the others are 0.
    """

    def __init__(self, records: Records):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> torch.Tensor:
        annotation_arrays(self.records[index])
        return torch.tensor(private_memory() if index % 1000 == 0 else 0)


def private_memory() -> int:
    """Return the unique set size of this process in bytes: memory not shared with other processes."""
    return psutil.Process().memory_full_info().uss


def memory_over_epoch(records: Records) -> list[int]:
    """Return the private memory in bytes of a worker at every thousandth record."""
    loader = DataLoader(MemoryProbe(records), batch_size=100, num_workers=1)
    return [int(value) for batch in loader for value in batch if value]


def run(count: int) -> None:
    """Print the memory growth of a worker with a list of dicts, and with the arrays of deim."""
    records = synthetic_records(count)
    rows: list[Sequence[str]] = []
    for name, source in _sources(records):
        memory = memory_over_epoch(source)
        rows.append(
            [name, *(f"{memory[int(fraction * (len(memory) - 1))] / 2**20:.0f} MiB" for fraction in (0, 0.5, 1))]
        )
    print(f"private memory of one worker over an epoch of {count} images with 7 objects each")
    print(tabulate(rows, ["annotations in", "first batch", "half", "end"], tablefmt="github"))


def _sources(records: list[dict]) -> Iterator[tuple[str, Records]]:
    yield "a list of dicts", records
    yield "deim's arrays", CompactRecords(records)
