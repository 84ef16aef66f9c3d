"""The folder of a run: one run in each."""

import os
import shutil
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from deim.errors import ConfigError

# What a run writes. The first three show that a run has begun to train there.
_SIGNS = ("metrics.json", "last_checkpoint", "*.pth")
_FILES = (*_SIGNS, "config.yaml", "log.txt*", "events.out.tfevents.*", "report.html", "inference")


def make_output_folder(folder: str) -> None:
    """Make ``train.output_dir``.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        PathManager.mkdirs(folder)
    except OSError as error:
        raise ConfigError(f"train.output_dir={folder} cannot be made: {error.strerror or error}") from error
    if os.path.isdir(folder) and not os.access(folder, os.W_OK):
        raise ConfigError(f"train.output_dir={folder} cannot be written to")


def claim_output_folder(folder: str, overwrite: bool) -> None:
    """Make sure that a new run does not mix with an older one in the same folder.

    Call it on every process, before the run writes anything.

    Args:
        overwrite: remove what the older run has written.

    Raises:
        ConfigError: the folder holds another run.
    """
    # A run that ended before its first step leaves an empty metrics.json.
    held = sorted(path.name for pattern in _SIGNS for path in Path(folder).glob(pattern) if path.stat().st_size)
    if not held:
        return
    if not overwrite:
        shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise ConfigError(
            f"train.output_dir={folder} holds another run ({shown}). Continue it with --resume, choose another "
            "train.output_dir, or remove it with --overwrite"
        )
    comm.synchronize()
    if comm.is_main_process():
        for pattern in _FILES:
            for path in Path(folder).glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    comm.synchronize()
