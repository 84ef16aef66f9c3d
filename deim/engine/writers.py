"""Where the scalars of a run go."""

import datetime
import logging
import os
from typing import Any

import torch
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage
from detectron2.utils.file_io import PathManager


class ProgressPrinter(EventWriter):
    """One readable line: progress, ETA, total loss, the last layer's losses, times, learning rate.

    A model of this family has up to seventy losses, all of which detectron2's printer would show;
    ``metrics.json`` and TensorBoard have them.
    """

    def __init__(self, max_iter: int, iters_per_epoch: int | None = None, window_size: int = 20):
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
            left = histories["time"].median(1000) * (self.max_iter - storage.iter - 1)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(left))}")
        layers = ("_aux_", "_dn_", "_enc_", "_pre")
        names = [n for n in histories if n.startswith("loss_") and not any(part in n for part in layers)]
        parts += [f"{name}: {median(name):.4g}" for name in ["total_loss", *names] if name in histories]
        for name in ("time", "data_time"):
            if name in histories:
                parts.append(f"{name}: {histories[name].avg(self.window_size):.3f}")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.4g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(parts))


def build_writers(cfg: Any, max_iter: int, iters_per_epoch: int | None) -> list[EventWriter]:
    """Console, ``metrics.json``, TensorBoard and, if ``train.wandb.enabled``, Weights & Biases."""
    folder = cfg.train.output_dir
    PathManager.mkdirs(folder)
    writers = [
        ProgressPrinter(max_iter, iters_per_epoch),
        JSONWriter(os.path.join(folder, "metrics.json")),
        TensorboardXWriter(folder),
    ]
    if cfg.train.wandb.enabled:
        from detrex.utils import WandbWriter

        PathManager.mkdirs(cfg.train.wandb.params.dir)
        writers.append(WandbWriter(cfg))
    return writers
