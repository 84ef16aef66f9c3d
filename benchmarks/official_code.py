"""Access to parts of the official code of DEIM, DEIMv2 and EdgeCrafter in a checkout."""

import importlib.util
import inspect
import random
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.augmentation import AUGMENTATIONS, EpochAugmentation
from deim.config.files import available
from deim.errors import ConfigError

# Name of the official code in tables.
OFFICIAL = "official"

# Packages that the official code imports, besides torch and the dependencies of this project.
REQUIRED_PACKAGES = {"torchvision": "torchvision", "faster_coco_eval": "faster-coco-eval", "tensorboard": "tensorboard"}


@dataclass(frozen=True)
class OfficialCode:
    """A repository with official code.

    Attributes:
        name: name in messages.
        marker: path of a file that identifies a checkout of this repository, if the marker of no earlier entry of
            ``OFFICIAL_CODES`` exists.
        configs: {system: (pattern of the names of its recipes, path of the config in a checkout)}.
        overrides: config overrides that give a recipe the parameters of the official model.
    """

    name: str
    marker: str
    configs: Mapping[str, tuple[str, str]]
    overrides: tuple[str, ...] = ()

    def config_path(self, recipe: str) -> str | None:
        """Return the path of a recipe's config in a checkout, or None if the repository has no config for it."""
        system, _, name = recipe.partition("/")
        pattern, path = self.configs.get(system, ("$^", ""))
        return re.sub(pattern, path, name) if re.fullmatch(pattern, name) else None


# A checkout of DEIMv2 also contains the configs of DEIM, so the marker of DEIMv2 is tested first. The code of DEIMv2 cannot
# build DEIM's models from these configs.
OFFICIAL_CODES = (
    OfficialCode(
        "DEIMv2",
        "configs/deimv2/deimv2_dinov3_s_coco.yml",
        {"deimv2": (r"deimv2_(\w+)_coco", r"configs/deimv2/deimv2_\1_coco.yml")},
    ),
    OfficialCode(
        "DEIM",
        "configs/deim_dfine/deim_hgnetv2_s_coco.yml",
        {
            "deim_dfine": (r"deim_dfine_(\w)_coco", r"configs/deim_dfine/deim_hgnetv2_\1_coco.yml"),
            "dfine": (r"dfine_(\w)_coco", r"configs/deim_dfine/dfine_hgnetv2_\1_coco.yml"),
            "deim_rtdetrv2": (r"deim_rtdetrv2_(r\w+)_coco", r"configs/deim_rtdetrv2/deim_\1_coco.yml"),
            "rtdetrv2": (r"rtdetrv2_(r\w+)_coco", r"configs/deim_rtdetrv2/rtdetrv2_\1_coco.yml"),
        },
    ),
    # The folder `ecdetseg` of the repository.
    OfficialCode(
        "EdgeCrafter",
        "configs/ecdet/ecdet_s.yml",
        {
            "ecdet": (r"ecdet_(\w)_coco", r"configs/ecdet/ecdet_\1.yml"),
            "ecseg": (r"ecseg_(\w)_coco", r"configs/ecseg/ecseg_\1.yml"),
        },
    ),
    # The folder `ecpose` of the repository. Its labels are the category ids of COCO, of which 0 is unused.
    OfficialCode(
        "EdgeCrafter/ecpose",
        "configs/ecpose/ecpose_s_coco.yml",
        {"ecpose": (r"ecpose_(\w)_coco", r"configs/ecpose/ecpose_\1_coco.yml")},
        overrides=("model.num_classes=2",),
    ),
)


def recognize_checkout(folder: str) -> OfficialCode:
    """Return the official code that a folder is a checkout of.

    Raises:
        ConfigError: if the folder is not a checkout of official code.
    """
    for code in OFFICIAL_CODES:
        if (Path(folder) / code.marker).is_file():
            return code
    markers = " or ".join(code.marker for code in OFFICIAL_CODES)
    raise ConfigError(
        f"{folder} is not a checkout of the official DEIM, DEIMv2 or EdgeCrafter code: it does not contain {markers}"
    )


def config_path(checkout: str, recipe: str) -> Path:
    """Return the path of a recipe's official config in a checkout.

    Raises:
        ConfigError: if the folder is not a checkout of official code, or has no config for the recipe.
    """
    code = recognize_checkout(checkout)
    path = code.config_path(recipe)
    if path is not None and (Path(checkout) / path).is_file():
        return Path(checkout) / path
    if path is not None:
        raise ConfigError(
            f"{checkout} does not contain {path}: use a complete checkout of the official {code.name} code"
        )
    others = [other.name for other in OFFICIAL_CODES if other.config_path(recipe) is not None]
    hint = f": use a checkout of {others[0]}" if others else ""
    raise ConfigError(f"the official {code.name} code has no config for {recipe}{hint}")


def official_recipes(checkout: str) -> list[str]:
    """Return the recipes whose models the official code of a checkout can build.

    Raises:
        ConfigError: if the folder is not a checkout of official code.
    """
    code = recognize_checkout(checkout)
    paths = {recipe: code.config_path(recipe) for recipe in available()}
    return [recipe for recipe, path in paths.items() if path is not None and (Path(checkout) / path).is_file()]


def official_batches(
    checkout: str, recipe: str, json_file: str, image_root: str, epoch: int, batch_size: int, num_workers: int
) -> Iterator[Any]:
    """Yield batches of the official loader of a recipe, all in the augmentation stage of an epoch and of one size.

    Call it in a separate process: the registries of the official code are global.

    Args:
        checkout: checkout of the official code.
        recipe: name of the recipe.
        json_file: annotation file in COCO format.
        image_root: folder of its images.
        epoch: epoch of the recipe, from 0.
        batch_size: number of images per batch.
        num_workers: number of worker processes.
    """
    settings: dict[str, Any] = {
        "dataset": {"img_folder": image_root, "ann_file": json_file},
        "total_batch_size": batch_size,
        "num_workers": num_workers,
    }
    yaml_config = _import_yaml_config(checkout)
    from engine.data.dataloader import BatchImageCollateFunction  # type: ignore[import-not-found]

    if "base_size_repeat" in inspect.signature(BatchImageCollateFunction).parameters:
        settings["collate_fn"] = {"base_size_repeat": None}
    loader = yaml_config(str(config_path(checkout, recipe)), train_dataloader=settings).train_dataloader
    loader.set_epoch(epoch)
    # The official loader restarts its workers in each epoch, which is a few batches of a small dataset.
    sampler = RandomSampler(loader.dataset, replacement=True, num_samples=10**9)
    yield from DataLoader(
        loader.dataset, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=loader.collate_fn
    )


def official_config(checkout: str, recipe: str, size: int) -> Any:
    """Return the official config of a recipe, with random weights, for square images of ``size`` pixels.

    Call it in a separate process: the registries of the official code are global.

    Raises:
        ConfigError: if the checkout has no config for the recipe, or if a package is missing.
    """
    return load_official_config(checkout, config_path(checkout, recipe), size)


def load_official_config(checkout: str, path: Path, size: int) -> Any:
    """Return the official config in the file ``path``; see :func:`official_config`."""
    config = _import_yaml_config(checkout)(str(path))
    # Not an argument of the constructor: that of EdgeCrafter also changes the sizes of the augmentation.
    config.yaml_cfg["eval_spatial_size"] = [size, size]
    no_weights = {
        "HGNetv2": {"pretrained": False},
        "PResNet": {"pretrained": False},
        "DINOv3STAs": {"weights_path": None},
        "ViTAdapter": {"skip_load_backbone": True},
    }
    for backbone, settings in no_weights.items():
        if backbone in config.yaml_cfg:
            config.yaml_cfg[backbone].update(settings)
    return config


def predicts_masks(config: Any) -> bool:
    """Return True if the model of an official config predicts masks."""
    return "masks" in config.yaml_cfg.get("ECCriterion", {}).get("losses", ())


@contextmanager
def fixed_mask_points() -> Iterator[None]:
    """Compare masks at the same points in both codes, for all masks, within the block.

    Both codes draw the points as random tensors whose last dimension is 2.
    """
    draw = torch.rand
    table = draw(100_000, 2, generator=torch.Generator().manual_seed(0))

    def draw_points(*shape: Any, **options: Any) -> Tensor:
        size = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if size[-1] != 2:
            return draw(*shape, **options)
        return table[: size[-2]].to(options.get("dtype") or torch.get_default_dtype()).expand(*size).clone()

    with mock.patch.object(torch, "rand", draw_points):
        yield


def official_model(config: Any) -> Any:
    """Return the model of an official config."""
    model = config.model
    for name, buffer in model.named_buffers():
        # DINOv3 multiplies the biases of queries, keys and values by a mask, which is NaN without published weights.
        # The published mask removes the bias of the keys.
        if name.endswith("bias_mask"):
            buffer.copy_(torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(buffer) // 3))
    return model


def train_poses_in_full_precision(model: nn.Module) -> None:
    """Let an official model with a pose decoder be trained without autocast, in place; other models do not change.

    The official code adds position embeddings in place to the tokens, which the prediction heads need in the backward
    pass. Autocast copies the inputs of the heads before.
    """
    for name, module in model.decoder.named_modules():  # type: ignore[union-attr]
        if _predicts_poses(model) and isinstance(module, nn.Linear) and not name.startswith("decoder.layers."):
            module.register_forward_pre_hook(lambda _, inputs: tuple(x.clone() for x in inputs))


def _predicts_poses(model: nn.Module) -> bool:
    return type(model).__name__ == "ECPose"


def poses_on(device: torch.device) -> AbstractContextManager:
    """Return a context in which the denoising of the official pose decoder, which calls ``cuda``, runs on ``device``."""
    return mock.patch.object(torch.Tensor, "cuda", lambda x, *args, **options: x.to(device))


def official_target(target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the target of an image as the official code has it: all coordinates of keypoints precede their visibility.

    Args:
        target: targets of an image, with ``keypoints`` (N, P, 3) if there are any.
    """
    if "keypoints" not in target:
        return dict(target)
    points, visibility = target["keypoints"].split((2, 1), dim=-1)
    return {**target, "keypoints": torch.cat([points.flatten(1), visibility.flatten(1)], dim=1)}


def normalize_as_official(config: Any, pixels: Tensor) -> Tensor:
    """Normalize images as the training images of an official config.

    Args:
        config: official config.
        pixels: (B, 3, H, W) in [0, 1].
    """
    for transform in config.yaml_cfg["train_dataloader"]["dataset"]["transforms"]["ops"]:
        if transform["type"] == "Normalize":
            mean, std = (torch.tensor(transform[name]).view(-1, 1, 1) for name in ("mean", "std"))
            return (pixels - mean) / std
    return pixels


def matcher_change_epoch(config: Any) -> int | None:
    """Return the first epoch of DEIMv2's late matching cost, or None if an official config has no such cost."""
    matcher = config.criterion.matcher
    return matcher.matcher_change_epoch if getattr(matcher, "change_matcher", False) else None


def official_augmentation(config: Any) -> list[EpochAugmentation]:
    """Return the augmentation of training images in every epoch of an official config.

    The official transforms are replaced by functions that record their names. The official code decides which of them it
    calls, for a random number of 0 and for one above every probability, and whether it combines the images of a batch.
    """
    from engine.data.dataloader import BatchImageCollateFunction
    from engine.data.transforms import Compose  # type: ignore[import-not-found]

    settings = deepcopy(config.yaml_cfg["train_dataloader"])
    compose = Compose(**{k: v for k, v in settings["dataset"]["transforms"].items() if k != "type"})
    arguments = {k: v for k, v in settings["collate_fn"].items() if k != "type"}
    # The constructor of DEIMv2 deletes the files of the folder `vis_save`.
    if "vis_save" in inspect.signature(BatchImageCollateFunction).parameters:
        arguments["vis_save"] = ""
    # The configs of RT-DETRv2 with ResNet-18 disable multi-scale training under a former name.
    if arguments.pop("scales", ()) is None:
        arguments["base_size_repeat"] = None
    collate = BatchImageCollateFunction(**arguments)
    operations = {operation["type"]: operation for operation in settings["dataset"]["transforms"]["ops"]}
    min_sizes = [
        operation["min_size"]
        for operation in settings["dataset"]["transforms"]["ops"]
        if operation["type"] == "SanitizeBoundingBoxes"
    ]
    epochs = []
    scales: Any = getattr(collate, "scales", None)  # EdgeCrafter trains at one size
    for epoch in range(_num_epochs(config)):
        with_mosaic, without_mosaic = (_applied_transforms(compose, epoch, number) for number in (0.0, 2.0))
        multi_scale = scales is not None and epoch < collate.stop_epoch
        has_mosaic = "Mosaic" in with_mosaic
        epochs.append(
            EpochAugmentation(
                mosaic_prob=compose.mosaic_prob if has_mosaic else 0.0,
                mosaic_tile=operations["Mosaic"]["output_size"] if has_mosaic else None,
                with_mosaic=with_mosaic & AUGMENTATIONS if has_mosaic else frozenset(),
                without_mosaic=without_mosaic & AUGMENTATIONS,
                mixup_prob=_operation_prob(collate, "mixup_prob", epoch),
                copy_blend_prob=_operation_prob(collate, "copyblend_prob", epoch),
                sides=tuple(sorted(scales)) if multi_scale else (operations["Resize"]["size"][0],),
                min_sizes=(min(min_sizes), max(min_sizes)),
            )
        )
    return epochs


def _applied_transforms(compose: Any, epoch: int, number: float) -> frozenset[str]:
    """Return the names of the transforms that the official ``Compose`` applies if every random number is ``number``."""
    applied: list[str] = []

    def recorder(name: str) -> Callable[[Any], Any]:
        # Compose compares names of classes.
        def call(self: Any, sample: Any) -> Any:
            applied.append(name)
            return sample

        return type(name, (), {"__call__": call})()

    recorders = [recorder(type(transform).__name__) for transform in compose.transforms]
    # The epoch is an attribute of the dataset, or of Compose in EdgeCrafter.
    compose.cur_epoch = epoch
    sample = (None, None, types.SimpleNamespace(epoch=epoch))
    with mock.patch.object(compose, "transforms", recorders), mock.patch.object(random, "random", return_value=number):
        compose(*sample)
    return frozenset(applied)


def _operation_prob(collate: Any, name: str, epoch: int) -> float:
    """Return the probability of an operation of the official collate function that combines the images of a batch.

    Args:
        collate: official collate function.
        name: attribute with the probability, "mixup_prob" or "copyblend_prob".
        epoch: epoch of the training, from 0.
    """
    other = {"mixup_prob": "copyblend_prob", "copyblend_prob": "mixup_prob"}[name]
    target = {"boxes": torch.full((1, 4), 0.5), "labels": torch.zeros(1), "area": torch.full((1,), 1e6)}
    collate.set_epoch(epoch)
    with (
        mock.patch.object(collate, other, 0.0, create=True),
        mock.patch.object(random, "random", return_value=0.0),
    ):
        _, targets = collate.apply_mixup(torch.zeros(2, 3, 8, 8), [dict(target), dict(target)])
    return getattr(collate, name) if len(targets[0]["boxes"]) > 1 else 0.0


@contextmanager
def in_default_dtype() -> Iterator[None]:
    """Replace float32 by torch's default dtype within the block, where the official code names float32.

    If the default dtype is float64, official code that is imported, built and called within the block computes in
    float64. Code of this project does not belong into the block: it selects kernels by comparing dtypes with float32.
    """
    dtype = torch.get_default_dtype()
    with (
        mock.patch.object(torch, "float32", dtype),
        mock.patch.object(torch, "float", dtype),
        mock.patch.object(torch.Tensor, "float", lambda tensor: tensor.to(dtype)),
    ):
        yield


def _import_yaml_config(checkout: str) -> Any:
    """Return the class ``YAMLConfig`` of a checkout.

    Raises:
        ConfigError: if a package is missing.
    """
    if "calflops" not in sys.modules and importlib.util.find_spec("calflops") is None:
        # Only the statistics of a model that the official training script prints need this package.
        stub = types.ModuleType("calflops")
        stub.calculate_flops = None  # type: ignore[attr-defined]
        sys.modules["calflops"] = stub
    missing = [name for module, name in REQUIRED_PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"the official code needs packages that are not installed: pip install {' '.join(missing)}")
    sys.path.insert(0, checkout)
    from engine.core import YAMLConfig  # type: ignore[import-not-found]

    _rename_for_torchvision()
    _draw_scalars()
    return YAMLConfig


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
        config.yaml_cfg[name]
        for name in ("DEIMTransformer", "DFINETransformer", "RTDETRTransformerv2", "ECTransformer")
        if name in config.yaml_cfg
    )
    decoder["num_queries"] = sum((size // stride) ** 2 for stride in decoder["feat_strides"])
    return decoder["num_queries"]


def official_learning_rates(config: Any, iters_per_epoch: int) -> Iterator[float]:
    """Yield the learning rate of every iteration of the official schedule, relative to the base."""
    optimizer = config.optimizer
    base = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["initial_lr"] = rate
    set_rates = _set_flat_cosine_rates if config.lrsheduler is not None else _set_step_rates
    for _ in set_rates(config, optimizer, iters_per_epoch):
        yield optimizer.param_groups[-1]["lr"] / base[-1]
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = rate


def _num_epochs(config: Any) -> int:
    """Return the number of epochs of an official config; DEIM and DEIMv2 spell the key differently."""
    return config.epochs if hasattr(config, "epochs") else config.epoches


def _set_flat_cosine_rates(config: Any, optimizer: Any, iters_per_epoch: int) -> Iterator[None]:
    """Yield once per iteration; the optimizer then has the learning rates of the official flat-cosine schedule."""
    from engine.optim.lr_scheduler import FlatCosineLRScheduler  # type: ignore[import-not-found]

    epochs = _num_epochs(config)
    if config.no_aug_epoch is not None:
        settings = (config.warmup_iter, config.flat_epoch, config.no_aug_epoch)
    else:
        # EdgeCrafter derives these settings from those of the augmentation (ECSolver.fit).
        transforms = config.yaml_cfg["train_dataloader"]["dataset"]["transforms"]
        flat = transforms["mosaic_epoch"] if config.flat_epoch is None else config.flat_epoch
        settings = (min(config.warmup_iter, 3 * iters_per_epoch), flat, epochs - transforms["stop_epoch"])
    scheduler = FlatCosineLRScheduler(optimizer, config.lr_gamma, iters_per_epoch, epochs, *settings)
    for iteration in range(epochs * iters_per_epoch):
        scheduler.step(iteration, optimizer)
        yield


def _set_step_rates(config: Any, optimizer: Any, iters_per_epoch: int) -> Iterator[None]:
    """Yield once per iteration; the optimizer then has the learning rates of the official step schedule."""
    scheduler, warmup = config.lr_scheduler, config.lr_warmup_scheduler
    for _ in range(config.epoches):
        for _ in range(iters_per_epoch):
            yield
            if warmup is not None:
                warmup.step()
        if warmup is None or warmup.finished():
            scheduler.step()


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


def _draw_scalars() -> None:
    """Let ``np.random.uniform`` return a number for ``size=1``: EdgeCrafter converts the result to float, which NumPy 2.4
    and later reject for arrays."""
    draw = np.random.uniform
    np.random.uniform = lambda low=0.0, high=1.0, size=None: draw(low, high, None if size == 1 else size)  # type: ignore[assignment]
