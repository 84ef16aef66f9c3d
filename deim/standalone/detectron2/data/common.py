"""Map-style data sets over lists of records."""

import pickle

import numpy as np
import torch.utils.data as torchdata

__all__ = ["DatasetFromList", "MapDataset"]


class MapDataset(torchdata.Dataset):
    """``map_func(dataset[i])``; a sample mapped to None is replaced by another one."""

    def __init__(self, dataset, map_func):
        self._dataset, self._map = dataset, map_func

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, idx):
        for offset in range(len(self)):
            sample = self._map(self._dataset[(int(idx) + offset) % len(self)])
            if sample is not None:
                return sample
        raise ValueError("the mapper returned None for every sample of the dataset")


class DatasetFromList(torchdata.Dataset):
    """A list of records, pickled into one byte array.

    Forked workers share an array; of a list of Python objects each would end up with a copy, since
    reading an object changes its reference count.
    """

    def __init__(self, lst, copy=True, serialize=True):
        if not serialize:
            self._records, self._ends = lst, None
            return
        blobs = [np.frombuffer(pickle.dumps(record, protocol=-1), dtype=np.uint8) for record in lst]
        self._ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
        self._records = np.concatenate(blobs) if blobs else np.empty(0, np.uint8)

    def __len__(self):
        return len(self._records if self._ends is None else self._ends)

    def __getitem__(self, idx):
        if self._ends is None:
            return self._records[idx]
        start = self._ends[idx - 1] if idx else 0
        return pickle.loads(memoryview(self._records[start : self._ends[idx]]))
