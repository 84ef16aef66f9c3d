"""detectron2's backbone weights: NumPy arrays in a pickle file, such as ``R-50.pkl``."""

import pickle
from typing import Any

import numpy as np
import torch

from deim.errors import CheckpointError

# The only classes and functions in such a file. Any other could run code during unpickling.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise CheckpointError(f"{module}.{name} is not allowed in a weights file")
        return super().find_class(module, name)


def read_detectron2_pickle(path: str) -> dict[str, Any]:
    """Read a file and return its arrays as tensors, ``{"model": {name: tensor}}``; other entries are dropped.

    Raises:
        CheckpointError: if the file contains objects other than arrays and plain data.
    """
    with open(path, "rb") as file:
        try:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        except CheckpointError as error:
            raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    weights = content.get("model", content)
    return {"model": {k: torch.from_numpy(v.copy()) for k, v in weights.items() if isinstance(v, np.ndarray)}}
