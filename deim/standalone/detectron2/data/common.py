"""Map-style datasets over lists of records."""

import copy as copying
import pickle
import random

import numpy as np
import torch.utils.data as torchdata

__all__ = ["DatasetFromList", "MapDataset"]


class MapDataset(torchdata.Dataset):
    """A dataset that applies ``map_func``. Entries mapped to None are replaced by other random entries."""

    def __init__(self, dataset, map_func):
        """Create the dataset.

        Raises:
            NotImplementedError: if ``dataset`` is an IterableDataset.
        """
        if isinstance(dataset, torchdata.IterableDataset):
            raise NotImplementedError(
                "The bundled subset of detectron2 does not map an IterableDataset; install detectron2."
            )
        self._dataset, self._map_func = dataset, map_func
        self._rng = random.Random(42)
        self._usable = set(range(len(dataset)))

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, idx):
        """Return an entry. Raises ValueError if ``map_func`` returns None for all entries."""
        index = int(idx)
        while (sample := self._map_func(self._dataset[index])) is None:
            self._usable.discard(index)
            index = self._rng.sample(list(self._usable), k=1)[0]
        self._usable.add(index)
        return sample


class _PickledList:
    """A list whose entries are pickled into one array of bytes.

    Forked workers share the memory of an array. A list of Python objects would be copied in each worker, because
    reading an object changes its reference count.
    """

    def __init__(self, entries):
        blobs = [np.frombuffer(pickle.dumps(entry, protocol=-1), dtype=np.uint8) for entry in entries]
        self._ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
        self._bytes = np.concatenate(blobs)

    def __len__(self):
        return len(self._ends)

    def __getitem__(self, idx):
        start = 0 if idx == 0 else self._ends[idx - 1].item()
        return pickle.loads(memoryview(self._bytes[start : self._ends[idx].item()]))


class DatasetFromList(torchdata.Dataset):
    """A list as a dataset."""

    def __init__(self, lst, copy=True, serialize=True):
        """Store a list.

        Args:
            lst: the entries.
            copy: whether to copy an entry when it is read. Serialized entries are always new objects.
            serialize: whether to pickle the entries into one array that forked workers share, or a function that
                converts the list to another container.

        Raises:
            TypeError: if ``serialize`` is neither a bool nor callable.
            ValueError: if an empty list is serialized.
        """
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(f"serialize must be a bool or a function, got {serialize!r}")
        self._copy = copy and serialize is False
        if serialize is not False:
            lst = (_PickledList if serialize is True else serialize)(lst)
        self._lst = lst

    def __len__(self):
        return len(self._lst)

    def __getitem__(self, idx):
        entry = self._lst[idx]
        return copying.deepcopy(entry) if self._copy else entry
