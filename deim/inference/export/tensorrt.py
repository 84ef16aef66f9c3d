"""An ONNX file as an engine of TensorRT, by the command ``trtexec`` that comes with it."""

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
    """The words of the command that builds an engine.

    Args:
        batches: the smallest, the usual and the largest number of images; None where the file's is fixed.
    """
    words = ["trtexec", f"--onnx={onnx_file}", f"--saveEngine={engine}"]
    if batches is not None:
        height, width = metadata.size
        shapes = zip(("min", "opt", "max"), batches, strict=True)
        words += [f"--{name}Shapes={INPUT}:{batch}x3x{height}x{width}" for name, batch in shapes]
    return words + ["--fp16"] * (metadata.dtype == "float16")


def build_engine(command: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: there is no ``trtexec`` here, or it fails; the message has the command.
    """
    text = " ".join(command)
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"there is no trtexec here; on the machine that is to run the engine (engines are made for one GPU):\n  {text}"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{text} failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")
