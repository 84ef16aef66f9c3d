"""Hooks that write checkpoints, and continue their records on ``--resume``."""

import json
import shutil
from pathlib import Path

from detectron2.engine import hooks

from deim.checkpoint.run_checkpointer import RunCheckpointer, atomic_write


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """detectron2's hook; ``max_to_keep`` also applies to checkpoints written before ``--resume``.

    With a checkpointer other than :class:`RunCheckpointer`, this hook behaves like detectron2's.
    """

    def before_train(self) -> None:
        super().before_train()
        if isinstance(self.checkpointer, RunCheckpointer):
            self.recent_checkpoints = self.checkpointer.numbered_checkpoints(before=self.trainer.start_iter)


class BestCheckpointer(hooks.BestCheckpointer):
    """detectron2's hook; the best value is preserved across ``--resume``.

    ``model_best.json`` stores ``value`` and ``iteration`` of ``model_best.pth``. These cannot be part of the state in a
    checkpoint, which may be older than ``model_best.pth``.
    """

    def _path(self, name: str) -> Path:
        return Path(self._checkpointer.save_dir) / name

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and self._path("model_best.json").is_file():
            self._load_record()

    def _load_record(self) -> None:
        record = json.loads(self._path("model_best.json").read_text(encoding="utf-8"))
        self.best_metric, self.best_iter = record["value"], record["iteration"]

    def copy_best(self, name: str) -> None:
        """Copy ``model_best.pth`` and ``model_best.json`` to files with another name."""
        for suffix in (".pth", ".json"):
            shutil.copyfile(self._path(f"model_best{suffix}"), self._path(name + suffix))

    def has_copy(self, name: str) -> bool:
        return self._path(f"{name}.pth").is_file() and self._path(f"{name}.json").is_file()

    def restore_best(self, name: str) -> None:
        """Restore ``model_best.pth`` and its record from the files written by :meth:`copy_best`."""
        for suffix in (".pth", ".json"):
            shutil.copyfile(self._path(name + suffix), self._path(f"model_best{suffix}"))
        self._load_record()

    def check(self) -> None:
        """Save ``model_best.pth`` if the latest value of the metric is the best one."""
        self._best_checking()

    def _best_checking(self) -> None:
        previous = self.best_iter
        super()._best_checking()
        if self.best_iter != previous:
            with atomic_write(str(self._path("model_best.json"))) as file:
                file.write(json.dumps({"value": self.best_metric, "iteration": self.best_iter}).encode())
