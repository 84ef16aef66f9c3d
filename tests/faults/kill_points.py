"""Program that kills itself at a point of the code, named by the environment variable ``KILL_POINT``.

KILL_POINT=checkpoint python -m tests.faults.kill_points tools/train_net.py ...
"""

import os
import runpy
import signal
import sys
from typing import Any

import torch

import deim.engine.evaluation
import deim.engine.hooks
from deim.checkpoint import run_checkpointer
from deim.checkpoint.run_checkpointer import RunCheckpointer
from deim.engine.hooks import EvaluationResumeHook
from deim.engine.hooks.final_stage import FinalStageHook


def die(*arguments: Any, **others: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(content: object, file: Any) -> None:
    file.write(b"PK\3\4" * 5000)
    file.flush()
    die()


def die_instead_of_moving(name: str) -> None:
    move = os.replace

    def replace(source: str, target: str) -> None:
        if os.path.basename(target) == name:
            die()
        move(source, target)

    run_checkpointer.os.replace = replace


# {description: function that installs the kill}, in the order in which a sequence of resumed runs reaches the points.
KILL_POINTS = {
    "the best checkpoint is about to be replaced": lambda: die_instead_of_moving("model_best.pth"),
    "the best checkpoint is replaced, but not its JSON file": lambda: die_instead_of_moving("model_best.json"),
    "a checkpoint is half written": lambda: setattr(torch, "save", write_half),
    "a checkpoint is written, but last_checkpoint does not name it": lambda: setattr(
        RunCheckpointer, "tag_last_checkpoint", die
    ),
    "last_checkpoint is about to be replaced": lambda: die_instead_of_moving("last_checkpoint"),
    "an evaluation begins": lambda: setattr(deim.engine.evaluation, "inference_on_dataset", die),
    "an evaluation is done, but no checkpoint records it": lambda: setattr(
        EvaluationResumeHook, "_mark_evaluated", die
    ),
    "the final epochs begin": lambda: setattr(FinalStageHook, "_restart", die),
    "everything is done but the last evaluation": lambda: setattr(deim.engine.hooks.MetricsWriter, "after_train", die),
}

if __name__ == "__main__":
    KILL_POINTS[os.environ["KILL_POINT"]]()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
