"""Hooks beyond detectron2's."""

import json
import os
from pathlib import Path

from detectron2.engine import hooks


class BestCheckpointer(hooks.BestCheckpointer):
    """detectron2's, remembering the best value across ``--resume``, which goes on from the last
    checkpoint and not, as with detectron2's, from the best one if that was written later.

    What is known of ``model_best.pth`` stands in ``model_best.json``: ``value`` and ``iteration``. A
    checkpoint cannot hold it, being written before the evaluation of its iteration.
    """

    @property
    def _facts(self) -> Path:
        return Path(self._checkpointer.save_dir) / "model_best.json"

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and self._facts.is_file():
            facts = json.loads(self._facts.read_text())
            self.best_metric, self.best_iter = facts["value"], facts["iteration"]

    def _best_checking(self) -> None:
        has_last = self._checkpointer.has_checkpoint()
        last = os.path.basename(self._checkpointer.get_checkpoint_file()) if has_last else None
        former = self.best_iter
        super()._best_checking()
        if self.best_iter != former:
            partial = self._facts.with_suffix(".part")
            partial.write_text(json.dumps({"value": self.best_metric, "iteration": self.best_iter}))
            partial.replace(self._facts)
        if last is not None:
            self._checkpointer.tag_last_checkpoint(last)
