"""Writers of a run's scalars."""

import datetime
import logging
import os
from collections.abc import Collection, Iterable
from typing import Any

import torch
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage
from detectron2.utils.file_io import PathManager
from torch import nn

from deim.engine.trackers import build_tracker_writers
from deim.modeling.losses import Criterion


class ProgressPrinter(EventWriter):
    """Writer that logs one line: progress, ETA, total loss, losses of the last layer, times, learning rate.

    Models of this family have up to seventy losses, all of which detectron2's printer would show. ``metrics.json``
    and TensorBoard contain them.

    Args:
        main_losses: names of the losses to show. None: every loss whose name does not extend the name of another
            loss, as ``loss_bbox_aux_0`` extends ``loss_bbox``.
    """

    def __init__(
        self,
        max_iter: int,
        iters_per_epoch: int | None = None,
        window_size: int = 20,
        main_losses: Collection[str] | None = None,
    ):
        self.main_losses = main_losses
        self.logger = logging.getLogger("detectron2.utils.events")
        self.max_iter, self.iters_per_epoch, self.window_size = max_iter, iters_per_epoch, window_size

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter >= self.max_iter:
            return
        histories = storage.histories()

        def median(name: str) -> float:
            return histories[name].median(storage.count_samples(name, self.window_size))

        parts = [f"iter: {storage.iter + 1}/{self.max_iter}"]
        if self.iters_per_epoch:
            parts.insert(0, f"epoch: {storage.iter // self.iters_per_epoch}")
        if "time" in histories:
            seconds_left = histories["time"].median(1000) * (self.max_iter - storage.iter - 1)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds_left))}")
        parts += [
            f"{name}: {median(name):.4g}"
            for name in ["total_loss", *self._shown_losses(histories)]
            if name in histories
        ]
        for name in ("time", "data_time"):
            if name in histories:
                parts.append(f"{name}: {histories[name].avg(self.window_size):.3f}")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.4g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(parts))

    def _shown_losses(self, histories: Iterable[str]) -> list[str]:
        losses = [name for name in histories if name.startswith("loss_")]
        if self.main_losses is not None:
            return [name for name in losses if name in self.main_losses]
        return [name for name in losses if not any(name.startswith(f"{other}_") for other in losses)]


def main_loss_names(model: nn.Module) -> Collection[str] | None:
    """Return the names of the last layer's losses; None if the model does not define them."""
    criterion = getattr(getattr(model, "module", model), "criterion", None)
    return tuple(criterion.losses) if isinstance(criterion, Criterion) else None


def build_writers(
    cfg: Any, max_iter: int, iters_per_epoch: int | None, main_losses: Collection[str] | None = None
) -> list[EventWriter]:
    """Build the writers of a run: console, ``metrics.json``, TensorBoard, W&B if ``train.wandb.enabled``, trackers."""
    folder = cfg.train.output_dir
    PathManager.mkdirs(folder)
    writers: list[EventWriter] = [
        ProgressPrinter(max_iter, iters_per_epoch, main_losses=main_losses),
        JSONWriter(os.path.join(folder, "metrics.json")),
        TensorboardXWriter(folder),
    ]
    if cfg.train.wandb.enabled:
        from detrex.utils import WandbWriter

        PathManager.mkdirs(cfg.train.wandb.params.dir)
        writers.append(WandbWriter(cfg))
    return [*writers, *build_tracker_writers(cfg.train.get("trackers") or (), folder)]
