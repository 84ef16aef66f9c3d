"""Conversion of ONNX files to TensorRT engines with ``trtexec``, which is part of TensorRT."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deim.errors import ConfigError
from deim.inference.export.graph import INPUT_NAME
from deim.inference.export.metadata import Metadata


def trtexec_command(
    onnx_file: str | Path, engine: str | Path, metadata: Metadata, batches: Sequence[int] | None
) -> list[str]:
    """Return the command that builds an engine.

    Args:
        batches: minimum, optimal and maximum batch size; None if the file's batch size is fixed.
    """
    arguments = ["trtexec", f"--onnx={onnx_file}", f"--saveEngine={engine}"]
    if batches is not None:
        height, width = metadata.size
        shapes = zip(("min", "opt", "max"), batches, strict=True)
        arguments += [f"--{name}Shapes={INPUT_NAME}:{batch}x3x{height}x{width}" for name, batch in shapes]
    return arguments + ["--fp16"] * (metadata.dtype == "float16")


def build_engine(command: Sequence[str]) -> None:
    """Run a command of :func:`trtexec_command`.

    Raises:
        ConfigError: if ``trtexec`` is not installed or fails; the message contains the command.
    """
    command_line = shlex.join(command)
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"trtexec is not installed. Engines work on one GPU model only: on the machine with that GPU, run\n  {command_line}"
        )
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise ConfigError(f"{command_line} failed:\n{(process.stdout + process.stderr).strip()[-2000:]}")
