"""Detector that fails in one process at one step.

The environment variable ``DETECTOR_FAILURE`` has the form ``<kind>:<rank>:<step>``, such as ``raise:1:3``.
"""

import os
import signal
from typing import Any

from detectron2.utils import comm

from deim.modeling.detector import DEIMDetector


class FailingDetector(DEIMDetector):
    """Detector with a failure of one of these kinds.

    ``raise`` raises an error. ``kill`` kills the process. ``kill_first`` kills the process unless torchrun has restarted
    it.
    """

    steps = 0

    def forward(self, batched_inputs: list[dict]) -> Any:
        if self.training:
            kind, rank, step = os.environ["DETECTOR_FAILURE"].split(":")
            is_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
            is_skipped = kind == "kill_first" and is_restarted
            if comm.get_rank() == int(rank) and self.steps == int(step) and not is_skipped:
                if kind == "raise":
                    raise ArithmeticError(f"failure of rank {rank}")
                os.kill(os.getpid(), signal.SIGKILL)
            self.steps += 1
        return super().forward(batched_inputs)
