"""Initial state of a training run: its own checkpoint, a detector, a backbone, or random weights."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import OmegaConf
from torch import nn

from deim.checkpoint import pretrained
from deim.checkpoint.backbone import is_backbone_checkpoint, load_stored_backbone, unfreeze
from deim.checkpoint.loading import load_stored_weights
from deim.checkpoint.pretrained import PixelStatistics
from deim.checkpoint.reading import read_weights
from deim.checkpoint.run_checkpointer import newest_checkpoint
from deim.config import published
from deim.config.building import selected_backbone_weights
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")


@dataclass(frozen=True)
class InitialState:
    """Initial state of a run; at most one attribute is set.

    Attributes:
        checkpoint: path of the run's own checkpoint to resume from.
        weights: path of a detector or backbone checkpoint.
        backbone: value of ``model.backbone.weights`` or of another argument in ``deim.config.building.WEIGHTS_ARGUMENTS``.
    """

    checkpoint: str | None = None
    weights: str | None = None
    backbone: str | bool | None = None


def find_initial_state(cfg: Any, resume_run: bool) -> InitialState:
    """Determine the initial state of a run, and download weights if needed, before the model is built.

    Raises:
        CheckpointError: if weights do not exist or cannot be downloaded, or all checkpoints of the run are damaged.
    """
    checkpoint = newest_checkpoint(cfg.train.output_dir) if resume_run else None
    if checkpoint is not None:
        return InitialState(checkpoint=checkpoint)
    if cfg.train.init_checkpoint:
        weights = published.initial_weights_path(cfg.train.recipe, cfg.train.init_checkpoint)
        if not Path(weights).exists():
            raise CheckpointError(f"train.init_checkpoint={weights} does not exist")
        return InitialState(weights=weights)
    backbone = selected_backbone_weights(cfg)
    description = _describe_backbone(cfg)
    if isinstance(backbone, str) and description is not None:
        pretrained.backbone_weights_path(backbone, description["builder"], description["size"])
    return InitialState(backbone=backbone)


def initial_weights_files(cfg: Any) -> list[str]:
    """Return the local files or folders that a new run starts from, without downloads.

    Raises:
        CheckpointError: if one of them does not exist.
    """
    detector, backbone = cfg.train.init_checkpoint, selected_backbone_weights(cfg)
    paths = [detector] if detector else [backbone] if isinstance(backbone, str) else []
    local = [path for path in paths if not pretrained.is_name(path) and "://" not in path]
    for path in local:
        if not Path(path).exists():
            key = "train.init_checkpoint" if detector else "model.backbone.weights"
            raise CheckpointError(f"{key}={path} does not exist")
    return local


def starts_from_random_weights(cfg: Any) -> bool:
    """Return whether a new run of this config starts from random weights only.

    Resumed runs use this as well, to build the same model as the original run.
    """
    return not cfg.train.init_checkpoint and selected_backbone_weights(cfg) is None


def unfreeze_random_backbone(cfg: Any, model: nn.Module) -> None:
    """Unfreeze the backbone if the run starts from random weights; in place.

    Recipes freeze parts of pretrained backbones. Random parts must be trained instead.
    """
    if not starts_from_random_weights(cfg):
        return
    logger.info(
        "The run has no pretrained weights: train.init_checkpoint and model.backbone.weights are empty. Published "
        "results start from pretrained backbones; training from random weights takes far longer."
    )
    backbone = getattr(model, "backbone", None)
    unfrozen = unfreeze(backbone) if isinstance(backbone, nn.Module) else []
    if unfrozen:
        logger.warning(
            f"The backbone has no pretrained weights, so freezing is disabled: {len(unfrozen)} frozen parameters and "
            "normalization layers will be trained (model.backbone.freeze_at and similar keys have no effect)"
        )


def warn_about_frozen_random_weights(cfg: Any) -> None:
    """Log a warning if ``train.freeze`` names modules that start from random weights."""
    if cfg.train.init_checkpoint or not comm.is_main_process():
        return
    is_random = starts_from_random_weights(cfg)
    random = [name for name in cfg.train.freeze if is_random or name.split(".")[0] != "backbone"]
    if random:
        logger.warning(
            f"train.freeze keeps the random weights of {', '.join(random)}: set train.init_checkpoint to trained weights"
        )


def load_initial_weights(state: InitialState, model: nn.Module, classes: Sequence[str] | None) -> None:
    """Load ``state.weights`` into a model: a detector or a backbone checkpoint.

    Args:
        classes: class names of the model; None if unknown.

    Raises:
        CheckpointError: if the checkpoint does not fit the model.
    """
    if state.weights is None:
        return
    stored, module = read_weights(state.weights), getattr(model, "module", model)
    backbone = getattr(module, "backbone", None)
    if isinstance(backbone, nn.Module) and is_backbone_checkpoint(module, stored.weights, stored.path):
        logger.info(f"{stored.path} is a backbone checkpoint: the rest of the model starts from random weights")
        load_stored_backbone(backbone, stored, allowed_missing=None)
    else:
        load_stored_weights(model, stored, allow_other_classes=True, classes=classes)


def check_pixel_normalization(cfg: Any) -> None:
    """Warn if the model's pixel normalization differs from that of its pretrained backbone."""
    expected, weights = _expected_normalization(cfg)
    mean, std = (OmegaConf.select(cfg, f"model.{key}", default=None) for key in ("pixel_mean", "pixel_std"))
    actual = PixelStatistics(*(tuple(values or default) for values, default in ((mean, (0,) * 3), (std, (255,) * 3))))
    if expected is None or actual == expected or not comm.is_main_process():
        return
    logger.warning(
        f"{weights} expects images normalized with model.pixel_mean={list(expected.mean)} "
        f"model.pixel_std={list(expected.std)}, but the model uses {list(actual.mean)} and {list(actual.std)}: "
        "expect lower accuracy"
    )


def _expected_normalization(cfg: Any) -> tuple[PixelStatistics | None, str]:
    init_checkpoint = cfg.train.init_checkpoint
    if init_checkpoint:
        # The file may be a detector, whose normalization is unknown: only file names of backbones are recognized.
        return (
            None if pretrained.is_name(init_checkpoint) else pretrained.pixel_statistics_for(init_checkpoint, {})
        ), init_checkpoint
    weights, description = selected_backbone_weights(cfg), _describe_backbone(cfg)
    if not isinstance(weights, str) or description is None:
        return None, ""
    return pretrained.pixel_statistics_for(weights, description), weights


def _describe_backbone(cfg: Any) -> dict[str, Any] | None:
    """Return builder and size of the backbone, or None for a foreign backbone."""
    node = OmegaConf.select(cfg, "model.backbone", default=None)
    target = node.get("_target_") if OmegaConf.is_dict(node) else None
    # Locating the backbone imports its module, which registers its description.
    builder = getattr(locate(target) if isinstance(target, str) else target, "__name__", "")
    description = pretrained.descriptions().get(builder)
    if description is None:
        return None
    return {"builder": builder, "size": node.get(description.size_argument)}
