"""Running the data loader of the official DEIM code, from a checkout of it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deim.errors import ConfigError

CONFIG = "configs/deim_dfine/deim_hgnetv2_s_coco.yml"
# Epochs of that config inside of its stages.
DENSE_EPOCH, STRONG_EPOCH = 10, 100


def require_checkout(folder: str) -> None:
    """
    Raises:
        ConfigError: the folder is no checkout of the official code.
    """
    if not (Path(folder) / CONFIG).is_file():
        raise ConfigError(f"{folder} is no checkout of the official DEIM code: {CONFIG} is not in it")


def official_batches(
    checkout: str, json_file: str, image_root: str, dense: bool, batch_size: int, num_workers: int
) -> Iterator[Any]:
    """Batches of the official loader, of 640 x 640, with or without mosaic and mixup.

    Call it in a process of its own: the registries of the official code are global.
    """
    sys.path.insert(0, checkout)
    from engine.core import YAMLConfig  # type: ignore[import-not-found]

    _rename_for_torchvision()
    loader = {
        "dataset": {"img_folder": image_root, "ann_file": json_file},
        "collate_fn": {"base_size_repeat": None},  # one size
        "total_batch_size": batch_size,
        "num_workers": num_workers,
    }
    train_loader = YAMLConfig(str(Path(checkout) / CONFIG), train_dataloader=loader).train_dataloader
    train_loader.set_epoch(DENSE_EPOCH if dense else STRONG_EPOCH)
    while True:
        yield from train_loader


def _rename_for_torchvision() -> None:
    """torchvision 0.21 renamed the methods that the official transforms override."""
    from torchvision.transforms.v2 import Transform  # type: ignore[import-not-found]

    if not hasattr(Transform, "make_params"):
        return
    for name, module in list(sys.modules.items()):
        if not name.startswith("engine.data.transforms"):
            continue
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Transform):
                for old, new in (("_transform", "transform"), ("_get_params", "make_params")):
                    if old in vars(cls):
                        setattr(cls, new, vars(cls)[old])
