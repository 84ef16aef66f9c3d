"""A detector that fails in one process at one step, as the environment variable ``PLANTED`` says: what, rank, step."""

import os
import signal
from typing import Any

from detectron2.utils import comm

from deim.modeling.detector import DEIMDetector


class PlantedDetector(DEIMDetector):
    """``raise`` raises, ``kill`` kills its process, ``kill_first`` only where torchrun has not started it again."""

    steps = 0

    def forward(self, batched_inputs: list[dict]) -> Any:
        if self.training:
            what, rank, step = os.environ["PLANTED"].split(":")
            again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
            if comm.get_rank() == int(rank) and self.steps == int(step) and not (again and what == "kill_first"):
                if what == "raise":
                    raise ArithmeticError(f"planted in rank {rank}")
                os.kill(os.getpid(), signal.SIGKILL)
            self.steps += 1
        return super().forward(batched_inputs)
