"""Ending a run on demand, with a checkpoint to go on from."""

import logging
import signal
import threading
from collections.abc import Callable

from detectron2.engine import HookBase
from detectron2.utils import comm

from deim.processes import PREEMPTED, SignalNotice

logger = logging.getLogger("detectron2.deim")


class PreemptionHook(HookBase):
    """On SIGTERM or SIGUSR1, which schedulers send before they take a machine away, ends the run after the iteration
    that it is in, with exit status :data:`deim.processes.PREEMPTED`.

    A signal to any of several processes ends all of them after the same iteration.

    Args:
        save: called on every process with that iteration, which is counted from 0.

    Raises:
        SystemExit: in ``after_step``.
    """

    def __init__(self, save: Callable[[int], None]):
        self.save = save
        self._notice: SignalNotice | None = None

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():  # the only one that gets signals
            self._notice = SignalNotice()

    def after_step(self) -> None:
        mine = self._notice.received if self._notice else None
        received = [number for number in comm.all_gather(mine) if number is not None]
        if not received or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        name = signal.Signals(received[0]).name
        logger.warning(f"Ending after iteration {self.trainer.iter}, since {name} was received: go on with --resume")
        self.save(self.trainer.iter)
        comm.synchronize()  # the first process to end may be the end of all
        raise SystemExit(PREEMPTED)

    def after_train(self) -> None:
        if self._notice is not None:
            self._notice.close()
