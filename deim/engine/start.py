"""What a training run starts from: its own checkpoint, a detector, a backbone, or random weights."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from omegaconf import OmegaConf
from torch import nn

from deim.checkpoint import pretrained
from deim.checkpoint.backbone import holds_backbone, load_stored_backbone, thaw
from deim.checkpoint.loading import load_stored_weights
from deim.checkpoint.pretrained import SIZE_ARGUMENTS, PixelStatistics
from deim.checkpoint.reading import read_weights
from deim.checkpoint.run_checkpointer import newest_checkpoint
from deim.config import published
from deim.config.building import WEIGHTS_ARGUMENTS
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")


@dataclass(frozen=True)
class Start:
    """What a run starts from; at most one of the three.

    Attributes:
        checkpoint: path of the run's own checkpoint, to continue from.
        weights: path of a file with a detector or a backbone.
        backbone: value of ``model.backbone.weights`` or of another argument in ``WEIGHTS_ARGUMENTS``.
    """

    checkpoint: str | None = None
    weights: str | None = None
    backbone: str | bool | None = None


def find_start(cfg: Any, resume_run: bool) -> Start:
    """Determine what a run starts from, and download it if needed, before anything large is built.

    Raises:
        CheckpointError: weights cannot be downloaded, or all checkpoints of the run are damaged.
    """
    checkpoint = newest_checkpoint(cfg.train.output_dir) if resume_run else None
    if checkpoint is not None:
        return Start(checkpoint=checkpoint)
    if cfg.train.init_checkpoint:
        weights = published.start_of(cfg.train.recipe, cfg.train.init_checkpoint)
        if not Path(weights).exists():
            raise CheckpointError(f"train.init_checkpoint={weights}: there is no such file")
        return Start(weights=weights)
    backbone = _backbone_weights(cfg)
    description = _describe(cfg)
    if isinstance(backbone, str) and description is not None:
        pretrained.path_of(backbone, description["builder"], description["size"])
    return Start(backbone=backbone)


def is_random(cfg: Any) -> bool:
    """Whether a new run of this config starts from random weights alone.

    A resumed run asks as well: it builds the model as the run did that it continues.
    """
    return not cfg.train.init_checkpoint and _backbone_weights(cfg) is None


def thaw_random_backbone(cfg: Any, model: nn.Module) -> None:
    """Make a random backbone learn as a whole where a run starts from random weights; in place.

    Recipes freeze parts of pretrained backbones. Random ones would never learn.
    """
    if not is_random(cfg):
        return
    logger.info(
        "The model starts from random weights: train.init_checkpoint and model.backbone.weights are empty. Published "
        "results start from pretrained backbones; training from random weights takes far longer."
    )
    backbone = getattr(model, "backbone", None)
    thawed = thaw(backbone) if isinstance(backbone, nn.Module) else []
    if thawed:
        logger.warning(
            f"The backbone is random, so nothing in it stays frozen: {len(thawed)} frozen parameters and normalization "
            "layers learn as well (model.backbone.freeze_at and the like have no effect)"
        )


def load_start(start: Start, model: nn.Module, classes: Sequence[str] | None) -> None:
    """Load ``start.weights`` into a model: a whole detector, or a backbone alone.

    Args:
        classes: names of the model's classes; None if they are not known.

    Raises:
        CheckpointError: the file is of another model.
    """
    if start.weights is None:
        return
    stored, module = read_weights(start.weights), getattr(model, "module", model)
    backbone = getattr(module, "backbone", None)
    if isinstance(backbone, nn.Module) and holds_backbone(module, stored.weights, stored.path):
        logger.info(f"{stored.path} holds a backbone alone: the rest of the model starts from random weights")
        load_stored_backbone(backbone, stored, fresh=None)
    else:
        load_stored_weights(model, stored, allow_other_classes=True, classes=classes)


def check_pixels(cfg: Any) -> None:
    """Warn where the model normalizes images in another way than its pretrained backbone expects."""
    wanted, weights = _expected_pixels(cfg)
    mean, std = (OmegaConf.select(cfg, f"model.{key}", default=None) for key in ("pixel_mean", "pixel_std"))
    used = PixelStatistics(*(tuple(values or default) for values, default in ((mean, (0,) * 3), (std, (255,) * 3))))
    if wanted is None or used == wanted or not comm.is_main_process():
        return
    logger.warning(
        f"{weights} expects images normalized with model.pixel_mean={list(wanted.mean)} "
        f"model.pixel_std={list(wanted.std)}, but the model uses {list(used.mean)} and {list(used.std)}: "
        "results will be worse than they could be"
    )


def _expected_pixels(cfg: Any) -> tuple[PixelStatistics | None, str]:
    given = cfg.train.init_checkpoint
    if given:
        # A file may hold a whole detector, of which only the config knows the normalization.
        return (None if published.is_name(given) else pretrained.pixels_of(given, {})), given
    weights, description = _backbone_weights(cfg), _describe(cfg)
    if not isinstance(weights, str) or description is None:
        return None, ""
    return pretrained.pixels_of(weights, description), weights


def _backbone_weights(cfg: Any) -> str | bool | None:
    """What the config says of the backbone's weights; None for random ones."""
    node = OmegaConf.select(cfg, "model.backbone", default=None)
    if not OmegaConf.is_dict(node):
        return None
    return next((node[name] for name, empty in WEIGHTS_ARGUMENTS.items() if node.get(name, empty) != empty), None)


def _describe(cfg: Any) -> dict[str, Any] | None:
    """Builder and size of the backbone, where it is one of ours."""
    node = OmegaConf.select(cfg, "model.backbone", default=None)
    target = node.get("_target_") if OmegaConf.is_dict(node) else None
    builder = target.rpartition(".")[2] if isinstance(target, str) else getattr(target, "__name__", "")
    if builder not in SIZE_ARGUMENTS:
        return None
    return {"builder": builder, "size": node.get(SIZE_ARGUMENTS[builder])}
