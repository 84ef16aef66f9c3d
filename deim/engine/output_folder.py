"""Output directory of a run; each directory holds one run."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from deim.errors import ConfigError

# Files written by a run. The first three show that training has begun.
_TRAINING_FILES = ("metrics.json", "last_checkpoint", "model_*.pth", "non_finite_*.pth")
_RUN_FILES = (
    *_TRAINING_FILES,
    "model_best*.json",
    "config.yaml*",
    "log.txt*",
    "events.out.tfevents.*",
    "report.html",
    "trackers.json",
    "comet",
    "curves.png",
    "inference",
    "evaluation",
)


def make_output_folder(folder: str) -> None:
    """Create ``train.output_dir``.

    Raises:
        ConfigError: if the directory cannot be created or is not writable.
    """
    try:
        PathManager.mkdirs(folder)
    except OSError as error:
        raise ConfigError(f"train.output_dir={folder} cannot be created: {error.strerror or error}") from error
    if os.path.isdir(folder) and not os.access(folder, os.W_OK):
        raise ConfigError(f"train.output_dir={folder} is not writable")


def claim_output_folder(folder: str, overwrite: bool, initial_weights: Sequence[str] = ()) -> None:
    """Make sure that a new run does not mix with an earlier one in the same directory.

    Call it on every rank before the run writes anything.

    Args:
        overwrite: delete the files of the earlier run.
        initial_weights: paths of the files that the new run starts from.

    Raises:
        ConfigError: if the directory holds another run, and ``overwrite`` is False or the new run starts from its files.
    """
    # A run that ended before its first step leaves an empty metrics.json.
    existing = sorted(
        path.name for pattern in _TRAINING_FILES for path in Path(folder).glob(pattern) if path.stat().st_size
    )
    if not existing:
        if comm.is_main_process():
            # Left by a run that ended before its first step, which trackers would continue under its config.
            Path(folder, "trackers.json").unlink(missing_ok=True)
        return
    if not overwrite:
        shown = ", ".join(existing[:3]) + (", ..." if len(existing) > 3 else "")
        raise ConfigError(
            f"train.output_dir={folder} already holds a run ({shown}). Continue this run with --resume, choose "
            "another train.output_dir, or delete the files of this run with --overwrite"
        )
    run_files = [path for pattern in _RUN_FILES for path in Path(folder).glob(pattern)]
    needed = {Path(weights).resolve() for weights in initial_weights} & {path.resolve() for path in run_files}
    if needed:
        raise ConfigError(
            f"--overwrite would delete {min(needed)}, from which the run starts: choose another train.output_dir"
        )
    comm.synchronize()
    if comm.is_main_process():
        for path in run_files:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    comm.synchronize()
