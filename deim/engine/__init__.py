"""Training and evaluation on detectron2's loop and hooks.

``hooks`` has the hooks of a run, and ``performance`` the modules that only affect its speed and memory.
"""

import importlib
from typing import Any

from deim.engine.hooks.ema import EMAHook
from deim.engine.optimizer import param_groups
from deim.engine.trainer import Trainer

__all__ = ["EMAHook", "Trainer", "param_groups"]

# Former modules of this package -> present modules, for dotted names in saved configs, such as those of ``_target_``.
_MOVED_MODULES = {
    **{name: f"deim.engine.hooks.{name}" for name in ("ema", "final_stage", "plateau", "preemption", "writers")},
    **{name: f"deim.engine.performance.{name}" for name in ("activation_checkpointing", "cpu_memory", "cuda_graphs")},
    **{name: f"deim.reporting.{name}" for name in ("drawing", "run_report")},
    **{name: f"deim.jobs.{name}" for name in ("ablation", "slurm")},
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(_MOVED_MODULES[name])
