"""Adjustments and checks before a run starts."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from deim.config.batch_size import AUTO
from deim.config.building import error_origin
from deim.data.mapper import CHANNEL_ORDER_KEYS
from deim.devices import PRECISIONS, amp_unsupported_reason, training_device
from deim.engine.model import MEMORY_FORMATS
from deim.engine.trackers import check_trackers
from deim.errors import ConfigError

logger = logging.getLogger("detectron2.deim")


def resolve_device(cfg: Any) -> None:
    """Set the device of the run and a precision that it supports natively in ``cfg``, in place.

    Without CUDA, Apple's MPS or the CPU is used. Mixed precision that the device would only emulate is replaced: by
    float16 on a GPU without bfloat16, by float32 elsewhere.

    Raises:
        ConfigError: if this machine does not have the device, or several ranks cannot use it.
    """
    requested = str(cfg.train.device)
    device = training_device(requested)
    if requested.startswith("cuda") and device.type != "cuda":
        logger.info(f"No CUDA device is available: running on {device.type}, as with train.device={device.type}")
        cfg.train.device = str(device)
    elif requested == "auto":
        cfg.train.device = str(device)
    if comm.get_world_size() > 1 and torch.cuda.is_available() and torch.device(cfg.train.device).type != "cuda":
        # The ranks communicate with NCCL, which needs a GPU.
        raise ConfigError(
            f"train.device={cfg.train.device} with {comm.get_world_size()} ranks on a machine with GPUs: hide the GPUs with "
            "the environment variable CUDA_VISIBLE_DEVICES= (empty), or use one rank"
        )
    amp = cfg.train.amp
    if not amp.enabled or amp.dtype not in PRECISIONS:
        return
    reason = amp_unsupported_reason(device, PRECISIONS[amp.dtype])
    if reason is None:
        return
    if device.type == "cuda":
        amp.dtype = "float16"
        logger.warning(f"{reason}: using float16 for mixed precision, as with train.amp.dtype=float16")
    else:
        amp.enabled = False
        logger.info(f"Computing in float32: {reason} (same as train.amp.enabled=False)")


def ddp_options(cfg: Any) -> dict:
    """Return the arguments of detectron2's ``create_ddp_model``."""
    options = dict(cfg.train.ddp)
    if torch.device(cfg.train.device).type != "cuda":
        options["device_ids"] = None  # detectron2's default is a GPU
    return options


# Keys whose value, if set, must be an integer of at least 1.
_POSITIVE_INTEGER_KEYS = (
    "train.max_iter",
    "train.log_period",
    "train.checkpointer.period",
    "train.accumulation_steps",
    "dataloader.train.total_batch_size",
    "dataloader.test.total_batch_size",
)

# Keys of objects that only training builds.
_TRAINING_KEYS = ("dataloader.train", "optimizer", "lr_multiplier")


def check_settings(cfg: Any, training: bool) -> None:
    """Check settings that no constructor checks.

    Args:
        training: whether the run trains or only evaluates.

    Raises:
        ConfigError: if an interpolation cannot be resolved, or a setting is missing or out of range.
    """
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key} of the config: {str(error).splitlines()[0]}") from error
    for key in _POSITIVE_INTEGER_KEYS:
        value = OmegaConf.select(cfg, key, default=None)
        if key == "dataloader.train.total_batch_size" and value == AUTO:
            continue
        if value is not None and not isinstance(value, int):
            raise ConfigError(f"{key} must be an integer, got {value!r}")
        if value is not None and value < 1:
            raise ConfigError(f"{key} must be at least 1, got {value}")
    if cfg.train.compile and cfg.train.get("activation_checkpointing"):
        raise ConfigError(
            "train.compile already selects the activations to recompute: remove train.activation_checkpointing"
        )
    if cfg.train.get("cuda_graphs"):
        _check_cuda_graph_settings(cfg.train)
    if cfg.train.model_ema.enabled and not 0 < cfg.train.model_ema.decay < 1:
        raise ConfigError(f"train.model_ema.decay must be between 0 and 1, got {cfg.train.model_ema.decay}")
    _check_channel_order(cfg)
    if training:
        check_trackers(cfg.train.get("trackers") or ())
    for key in ("model", "dataloader.test", *(_TRAINING_KEYS if training else ())):
        if "_target_" not in (OmegaConf.select(cfg, key, default=None) or {}):
            raise ConfigError(f"{key} of the config has no _target_: it must describe an object to build")
    if cfg.train.memory_format not in MEMORY_FORMATS:
        choices = ", ".join(MEMORY_FORMATS)
        raise ConfigError(f"train.memory_format={cfg.train.memory_format!r}; choose one of {choices}")
    try:
        torch.device("cpu" if cfg.train.device == "auto" else cfg.train.device)
    except RuntimeError as error:
        raise ConfigError(f"train.device={cfg.train.device!r}: {error}") from error


def _check_cuda_graph_settings(train: Any) -> None:
    conflicts = {
        "train.compile": train.compile,
        "train.activation_checkpointing": train.get("activation_checkpointing"),
        "train.freeze": train.get("freeze"),
        # The next part of the batch would overwrite the gradients of the previous one.
        "train.accumulation_steps": train.get("accumulation_steps", 1) > 1,
        "more than one rank": comm.get_world_size() > 1,
    }
    for setting, is_set in conflicts.items():
        if is_set:
            raise ConfigError(f"train.cuda_graphs cannot be combined with {setting}")


def warn_about_unused_augmentation(cfg: Any) -> None:
    """Log a warning if mosaic, mixup or another batch operation is configured but never active."""
    train = cfg.dataloader.train
    names = ["mosaic"] if OmegaConf.select(train, "mapper.mosaic") is not None else []
    names += ["mixup"] if train.get("mixup") is not None else []
    # Operations with epochs of their own do not depend on dense_epochs.
    operations = [operation for operation in train.get("batch_operations") or () if operation is not None]
    names += ["batch_operations without epochs"] if any(item.get("epochs") is None for item in operations) else []
    if names and not any(OmegaConf.select(cfg, "schedule.dense_epochs") or ()):
        logger.warning(
            f"dataloader.train has {' and '.join(names)}, but schedule.dense_epochs is empty: they have no effect"
        )


@torch.no_grad()
def check_model_runs(cfg: Any, model: nn.Module, shapes: Sequence[tuple[int, int]] = ()) -> None:
    """Run a black image of the smallest size in ``shapes`` and ``dataloader.image_size`` through the model.

    Incompatible components, or too few tokens for the queries, are then reported before the run starts.

    Args:
        shapes: (height, width) of training images.

    Raises:
        ConfigError: if the forward pass fails.
    """
    image_size = OmegaConf.select(cfg, "dataloader.image_size", default=None)
    shapes = [*shapes, *([tuple(image_size)] if image_size is not None else [])]
    if not shapes:
        return
    height, width = min(shapes, key=lambda shape: shape[0] * shape[1])
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    try:
        with inference_context(model):
            model([{"image": image, "height": height, "width": width}])
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the model fails on an image of {height} x {width}, the smallest of this run "
            f"(dataloader.image_size): {error} ({error_origin(error)})"
        ) from error


def _check_channel_order(cfg: Any) -> None:
    """Compare the channel order of the model with that of the mappers.

    Raises:
        ConfigError: if they differ.
    """
    expected = OmegaConf.select(cfg, "model.input_format", default=None)
    for split in ("train", "test"):
        mapper = OmegaConf.select(cfg, f"dataloader.{split}.mapper", default=None) or {}
        key = next((name for name in CHANNEL_ORDER_KEYS if mapper.get(name)), None)
        if expected is not None and key is not None and mapper[key] != expected:
            raise ConfigError(
                f"dataloader.{split}.mapper.{key} is {mapper[key]}, but model.input_format is {expected}: set both "
                "to the same value. The model converts its input to RGB, which pretrained weights expect"
            )
