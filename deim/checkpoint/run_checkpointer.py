"""Checkpoints of a run that outlive whatever ends it."""

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
    """detectron2's, of which every file is whole or not there: each is written beside its place and then moved there.

    ``last_checkpoint`` names the last one to resume from; ``model_best.pth`` is none of these.
    """

    def save(self, name: str, **others: Any) -> None:
        """
        Raises:
            CheckpointError: the disk is full, or cannot be written to; a file of the name is as it was.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if _is_remote(self.save_dir):  # stores of objects show whole ones only
            super().save(name, **others)
            return
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with replacing(path) as file:
            torch.save({"model": self.model.state_dict(), **states, **others}, file)
        if f"{name}.pth" == FINAL or _iteration(f"{name}.pth") >= 0:
            self.tag_last_checkpoint(f"{name}.pth")

    def save_after(self, iteration: int) -> None:
        """The checkpoint of an iteration, named as detectron2's periodic ones."""
        self.save(f"model_{iteration:07d}", iteration=iteration)

    def has_saved_after(self, iteration: int) -> bool:
        return os.path.isfile(os.path.join(self.save_dir, f"model_{iteration:07d}.pth"))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if _is_remote(self.save_dir):
            super().tag_last_checkpoint(last_filename_basename)
            return
        with replacing(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def numbered(self, before: float = math.inf) -> list[str]:
        """Paths of the checkpoints of iterations, the oldest first.

        Args:
            before: only of iterations before this one; a folder may hold later ones of another run.
        """
        found = {_iteration(path.name): str(path) for path in Path(self.save_dir).glob("model_*.pth")}
        return [path for iteration, path in sorted(found.items()) if 0 <= iteration < before]

    def newest_whole(self) -> str | None:
        """Path of the last checkpoint, or, where that is damaged or missing, of the last one before it that is not;
        None where there never was one. The main process decides for all.

        Raises:
            CheckpointError: all are damaged.
        """
        return comm.all_gather(self._newest_whole() if comm.is_main_process() else None)[0]

    def _newest_whole(self) -> str | None:
        if _is_remote(self.save_dir):
            return self.get_checkpoint_file() or None
        candidates = self._candidates()
        for path in candidates:
            problem = damage(path)
            if problem is None:
                return path
            self.logger.warning(f"{path} {problem}: looking for the checkpoint before it")
        if candidates:
            raise CheckpointError(
                f"none of the checkpoints in {self.save_dir} can be resumed from: {', '.join(candidates)} are damaged; "
                "start without --resume, or in another train.output_dir"
            )
        return None

    def _candidates(self) -> list[str]:
        final = os.path.join(self.save_dir, FINAL)
        tagged = self.get_checkpoint_file() if self.has_checkpoint() else ""
        if tagged and _iteration(os.path.basename(tagged)) >= 0:
            return [tagged, *self.numbered(before=_iteration(os.path.basename(tagged)))[::-1]]
        return [*([final] if tagged == final or os.path.isfile(final) else []), *self.numbered()[::-1]]


def newest_checkpoint(folder: str) -> str | None:
    """Return the path of the last undamaged checkpoint of the run in a folder; see
    :meth:`RunCheckpointer.newest_whole`."""
    return RunCheckpointer(nn.Module(), folder).newest_whole()


def _is_remote(folder: str) -> bool:
    return "://" in folder


def _iteration(name: str) -> int:
    """Of the checkpoint of an iteration, by its name; -1 for others."""
    match = _NUMBERED.fullmatch(name)
    return -1 if match is None else int(match[1])


def damage(path: str) -> str | None:
    """What is wrong with a file that torch has written; None if every byte is as it was."""
    try:
        with zipfile.ZipFile(path) as archive:
            return None if archive.testzip() is None else "is damaged"
    except FileNotFoundError:
        return "does not exist"
    except Exception as error:  # zipfile has many kinds for tables of contents that make no sense
        return f"is damaged ({error})"


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path`` once it is whole and on the disk.

    Raises:
        CheckpointError: it cannot be written.
    """
    partial = f"{path}.part"
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch raises the latter when a write fails
        with suppress(OSError):
            os.unlink(partial)
        raise CheckpointError(
            f"cannot write {path}: {_reason(error)}. A file of this name that was there before is untouched"
        ) from error


def _reason(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__ or cause.__cause__
    return str(error).splitlines()[0] if cause is None else (cause.strerror or str(cause))
