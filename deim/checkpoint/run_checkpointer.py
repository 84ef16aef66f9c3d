"""Atomic checkpoints of a training run."""

import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from deim.errors import CheckpointError

_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
FINAL = "model_final.pth"


class RunCheckpointer(DetectionCheckpointer):
    """detectron2's ``DetectionCheckpointer`` with atomic writes: files get a temporary name until they are complete.

    ``last_checkpoint`` names the newest checkpoint to resume from; ``model_best.pth`` is never resumed from.
    """

    def save(self, name: str, **others: Any) -> None:
        """Save a checkpoint.

        Raises:
            CheckpointError: if the disk is full or not writable; an existing file with this name is unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if _is_remote(self.save_dir):  # object stores only show complete files
            super().save(name, **others)
            return
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with atomic_write(path) as file:
            torch.save({"model": self.model.state_dict(), **states, **others}, file)
        if f"{name}.pth" == FINAL or _iteration(f"{name}.pth") >= 0:
            self.tag_last_checkpoint(f"{name}.pth")

    def save_iteration(self, iteration: int) -> None:
        """Save the checkpoint of an iteration, named as detectron2's periodic checkpoints."""
        self.save(f"model_{iteration:07d}", iteration=iteration)

    def has_iteration(self, iteration: int) -> bool:
        return os.path.isfile(os.path.join(self.save_dir, f"model_{iteration:07d}.pth"))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if _is_remote(self.save_dir):
            super().tag_last_checkpoint(last_filename_basename)
            return
        with atomic_write(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def numbered_checkpoints(self, before: float = math.inf) -> list[str]:
        """Return the paths of numbered checkpoints, oldest first.

        Args:
            before: only iterations before this one; the folder may contain later ones of another run.
        """
        found = {_iteration(path.name): str(path) for path in Path(self.save_dir).glob("model_*.pth")}
        return [path for iteration, path in sorted(found.items()) if 0 <= iteration < before]

    def newest_intact(self) -> str | None:
        """Return the path of the newest undamaged checkpoint, or None if the folder has no checkpoints.

        The search starts at ``last_checkpoint`` and goes back in time. The main process decides for all ranks.

        Raises:
            CheckpointError: if all checkpoints are damaged.
        """
        return comm.all_gather(self._newest_intact() if comm.is_main_process() else None)[0]

    def _newest_intact(self) -> str | None:
        if _is_remote(self.save_dir):
            return self.get_checkpoint_file() or None
        candidates = self._candidates()
        for path in candidates:
            problem = describe_damage(path)
            if problem is None:
                return path
            self.logger.warning(f"{path} {problem}: looking for the checkpoint before it")
        if candidates:
            raise CheckpointError(
                f"no checkpoint in {self.save_dir} can be resumed from: {', '.join(candidates)} are damaged; "
                "start without --resume, or set another train.output_dir"
            )
        return None

    def _candidates(self) -> list[str]:
        final = os.path.join(self.save_dir, FINAL)
        tagged = self.get_checkpoint_file() if self.has_checkpoint() else ""
        if tagged and _iteration(os.path.basename(tagged)) >= 0:
            return [tagged, *self.numbered_checkpoints(before=_iteration(os.path.basename(tagged)))[::-1]]
        return [*([final] if tagged == final or os.path.isfile(final) else []), *self.numbered_checkpoints()[::-1]]


def newest_checkpoint(folder: str) -> str | None:
    """Return the path of the newest undamaged checkpoint in a folder; see :meth:`RunCheckpointer.newest_intact`."""
    return RunCheckpointer(nn.Module(), folder).newest_intact()


def _is_remote(folder: str) -> bool:
    return "://" in folder


def _iteration(name: str) -> int:
    """Return the iteration of a numbered checkpoint's name; -1 for other names."""
    match = _NUMBERED.fullmatch(name)
    return -1 if match is None else int(match[1])


def describe_damage(path: str) -> str | None:
    """Return a description of the damage to a file that torch has written; None if its checksums match."""
    try:
        with zipfile.ZipFile(path) as archive:
            return None if archive.testzip() is None else "is damaged"
    except FileNotFoundError:
        return "does not exist"
    except Exception as error:  # zipfile raises many exception types for invalid directories
        return f"is damaged ({error})"


@contextmanager
def atomic_write(path: str) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces ``path`` once it is complete and synced to disk.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    partial = f"{path}.part"
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if a write fails
        with suppress(OSError):
            os.unlink(partial)
        raise CheckpointError(
            f"cannot write {path}: {_reason(error)}. An existing file with this name is unchanged"
        ) from error


def _reason(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__ or cause.__cause__
    return str(error).splitlines()[0] if cause is None else (cause.strerror or str(cause))
