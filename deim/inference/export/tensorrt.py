"""Conversion of ONNX files to TensorRT engines with ``trtexec``, which is part of TensorRT."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deim.errors import ConfigError
from deim.inference.export.graph import INPUT
from deim.inference.export.metadata import Metadata


def trtexec_command(
    onnx_file: str | Path, engine: str | Path, metadata: Metadata, batches: Sequence[int] | None
) -> list[str]:
    """Return the command that builds an engine.

    Args:
        batches: minimum, optimal and maximum batch size; None if the file's batch size is fixed.
    """
    words = ["trtexec", f"--onnx={onnx_file}", f"--saveEngine={engine}"]
    if batches is not None:
        height, width = metadata.size
        shapes = zip(("min", "opt", "max"), batches, strict=True)
        words += [f"--{name}Shapes={INPUT}:{batch}x3x{height}x{width}" for name, batch in shapes]
    return words + ["--fp16"] * (metadata.dtype == "float16")


def build_engine(command: Sequence[str]) -> None:
    """Run a command of :func:`trtexec_command`.

    Raises:
        ConfigError: if ``trtexec`` is not installed or fails; the message contains the command.
    """
    text = " ".join(command)
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"trtexec is not installed. Engines work on one GPU model only: on the machine with that GPU, run\n  {text}"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{text} failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")
