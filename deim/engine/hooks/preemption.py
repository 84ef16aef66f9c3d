"""Preemption: save a checkpoint and exit when a signal arrives."""

import logging
import signal
import threading
from collections.abc import Callable

from detectron2.engine import HookBase
from detectron2.utils import comm

from deim.processes import PREEMPTED_EXIT_STATUS, PreemptionRecorder

logger = logging.getLogger("detectron2.deim")


class PreemptionHook(HookBase):
    """Hook that ends a run after the current iteration when it receives SIGTERM or SIGUSR1.

    Schedulers send these signals before they take a machine away. The exit status is
    :data:`deim.processes.PREEMPTED_EXIT_STATUS`. A signal to any rank ends all ranks after the same iteration.

    Args:
        save: called on every rank with the iteration, counted from 0.

    Raises:
        SystemExit: in ``after_step``.
    """

    def __init__(self, save: Callable[[int], None]):
        self.save = save
        self._recorder: PreemptionRecorder | None = None

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():  # signals are delivered to the main thread only
            self._recorder = PreemptionRecorder()

    def after_step(self) -> None:
        own_signal = self._recorder.received if self._recorder else None
        received = [number for number in comm.all_gather(own_signal) if number is not None]
        if not received or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        name = signal.Signals(received[0]).name
        logger.warning(f"Received {name}: exiting after iteration {self.trainer.iter}. Continue the run with --resume")
        self.save(self.trainer.iter)
        comm.synchronize()  # launchers kill the remaining ranks when the first one exits
        raise SystemExit(PREEMPTED_EXIT_STATUS)

    def after_train(self) -> None:
        if self._recorder is not None:
            self._recorder.restore_handlers()
