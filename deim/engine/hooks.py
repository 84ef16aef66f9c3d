"""Hooks beyond detectron2's."""

import os

from detectron2.engine import hooks


class BestCheckpointer(hooks.BestCheckpointer):
    """detectron2's, remembering the best value across ``--resume``, which goes on from the last
    checkpoint and not, as with detectron2's, from the best one if that was written later."""

    def _best_checking(self) -> None:
        has_last = self._checkpointer.has_checkpoint()
        last = os.path.basename(self._checkpointer.get_checkpoint_file()) if has_last else None
        super()._best_checking()
        if last is not None:
            self._checkpointer.tag_last_checkpoint(last)

    def state_dict(self) -> dict:
        return {} if self.best_metric is None else {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]
