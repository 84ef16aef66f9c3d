"""Hooks that write checkpoints, and continue their records on ``--resume``."""

import json
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

    ``model_best.json`` stores ``value`` and ``iteration`` of ``model_best.pth``. A checkpoint cannot store them: it is
    written before the evaluation of its iteration.
    """

    @property
    def _record_path(self) -> Path:
        return Path(self._checkpointer.save_dir) / "model_best.json"

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and self._record_path.is_file():
            record = json.loads(self._record_path.read_text(encoding="utf-8"))
            self.best_metric, self.best_iter = record["value"], record["iteration"]

    def _best_checking(self) -> None:
        previous = self.best_iter
        super()._best_checking()
        if self.best_iter != previous:
            with atomic_write(str(self._record_path)) as file:
                file.write(json.dumps({"value": self.best_metric, "iteration": self.best_iter}).encode())
