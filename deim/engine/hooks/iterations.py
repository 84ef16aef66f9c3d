"""Iterations of detectron2's trainer."""

from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.engine import TrainerBase


def evaluates_after(iteration: int, eval_period: int, max_iter: int) -> bool:
    """Return whether detectron2 evaluates after an iteration, not counting the evaluation at the end of the run."""
    following = iteration + 1
    return eval_period > 0 and following % eval_period == 0 and following != max_iter


@contextmanager
def at_iteration(trainer: TrainerBase, iteration: int) -> Iterator[None]:
    """Within the context, set the iteration of the trainer and of the event storage to an earlier one."""
    current = trainer.iter
    trainer.iter = trainer.storage.iter = iteration
    yield
    trainer.iter = trainer.storage.iter = current
