"""Access to parts of the official DEIM code in a checkout."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deim.errors import ConfigError

# Name of the official code in tables.
OFFICIAL = "official"
CONFIG = "configs/deim_dfine/deim_hgnetv2_s_coco.yml"
# An epoch of that config within the stage with mosaic and mixup, and one within the stage after it.
DENSE_EPOCH, STRONG_EPOCH = 10, 100


def require_checkout(folder: str) -> None:
    """Check that a folder is a checkout of the official code.

    Raises:
        ConfigError: if the folder is not a checkout of the official code.
    """
    if not (Path(folder) / CONFIG).is_file():
        raise ConfigError(f"{folder} is not a checkout of the official DEIM code: it does not contain {CONFIG}")


def official_batches(
    checkout: str, json_file: str, image_root: str, dense: bool, batch_size: int, num_workers: int
) -> Iterator[Any]:
    """Yield 640 x 640 batches of the official loader, with or without mosaic and mixup.

    Call it in a separate process: the registries of the official code are global.
    """
    sys.path.insert(0, checkout)
    from engine.core import YAMLConfig  # type: ignore[import-not-found]

    _rename_for_torchvision()
    loader = {
        "dataset": {"img_folder": image_root, "ann_file": json_file},
        "collate_fn": {"base_size_repeat": None},  # a fixed image size
        "total_batch_size": batch_size,
        "num_workers": num_workers,
    }
    train_loader = YAMLConfig(str(Path(checkout) / CONFIG), train_dataloader=loader).train_dataloader
    train_loader.set_epoch(DENSE_EPOCH if dense else STRONG_EPOCH)
    while True:
        yield from train_loader


def config_path(recipe: str) -> str:
    """Return the path of a recipe's config in a checkout of the official code.

    Raises:
        ConfigError: if the official code has no config for the recipe.
    """
    system, _, name = recipe.partition("/")
    patterns = {
        "deim_dfine": (r"deim_dfine_(\w)_coco", r"configs/deim_dfine/deim_hgnetv2_\1_coco.yml"),
        "dfine": (r"dfine_(\w)_coco", r"configs/deim_dfine/dfine_hgnetv2_\1_coco.yml"),
        "deim_rtdetrv2": (r"deim_rtdetrv2_(r\w+)_coco", r"configs/deim_rtdetrv2/deim_\1_coco.yml"),
        "rtdetrv2": (r"rtdetrv2_(r\w+)_coco", r"configs/deim_rtdetrv2/rtdetrv2_\1_coco.yml"),
    }
    pattern, path = patterns.get(system, ("$^", ""))
    if not re.fullmatch(pattern, name):
        raise ConfigError(f"the official DEIM code has no config for {recipe}")
    return re.sub(pattern, path, name)


def official_config(checkout: str, recipe: str, size: int) -> Any:
    """Return the official config of a recipe, with random weights, for square images of ``size`` pixels.

    Call it in a separate process: the registries of the official code are global.
    """
    sys.path.insert(0, checkout)
    from engine.core import YAMLConfig

    _rename_for_torchvision()
    config = YAMLConfig(str(Path(checkout) / config_path(recipe)), eval_spatial_size=[size, size])
    for backbone in ("HGNetv2", "PResNet"):
        if backbone in config.yaml_cfg:
            config.yaml_cfg[backbone]["pretrained"] = False
    return config


def official_ema(model: Any) -> Any:
    """Return the official EMA of a model."""
    from engine.optim.ema import ModelEMA  # type: ignore[import-not-found]

    return ModelEMA(model, 0.9999, 1000)


def select_every_token(config: Any, size: int) -> int:
    """Set the number of queries of an official config to the number of tokens of a square image of ``size`` pixels.

    Call it before the model is built.

    Returns:
        The number of queries.
    """
    decoder = next(
        config.yaml_cfg[name] for name in ("DFINETransformer", "RTDETRTransformerv2") if name in config.yaml_cfg
    )
    decoder["num_queries"] = sum((size // stride) ** 2 for stride in decoder["feat_strides"])
    return decoder["num_queries"]


def official_learning_rates(config: Any, iters_per_epoch: int) -> Iterator[float]:
    """Yield the learning rate of every iteration of the official schedule, relative to the base."""
    optimizer = config.optimizer
    base = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["initial_lr"] = rate
    rates = _flat_cosine_rates if config.lrsheduler is not None else _step_rates
    for _ in rates(config, optimizer, iters_per_epoch):
        yield optimizer.param_groups[-1]["lr"] / base[-1]
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = rate


def _flat_cosine_rates(config: Any, optimizer: Any, iters_per_epoch: int) -> Iterator[None]:
    from engine.optim.lr_scheduler import FlatCosineLRScheduler  # type: ignore[import-not-found]

    settings = (config.epoches, config.warmup_iter, config.flat_epoch, config.no_aug_epoch)
    scheduler = FlatCosineLRScheduler(optimizer, config.lr_gamma, iters_per_epoch, *settings)
    for iteration in range(config.epoches * iters_per_epoch):
        scheduler.step(iteration, optimizer)
        yield


def _step_rates(config: Any, optimizer: Any, iters_per_epoch: int) -> Iterator[None]:
    epochs, warmup = config.lr_scheduler, config.lr_warmup_scheduler
    for _ in range(config.epoches):
        for _ in range(iters_per_epoch):
            yield
            if warmup is not None:
                warmup.step()
        if warmup is None or warmup.finished():
            epochs.step()


def _rename_for_torchvision() -> None:
    """Add the method names of torchvision 0.21 and later to the official transforms, which have the older ones."""
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
