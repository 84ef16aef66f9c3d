"""TensorRT engines, built from ONNX files with ``trtexec``, which is part of TensorRT."""

import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from deim.errors import ConfigError
from deim.inference.export.formats.exporter import Exporter, Support
from deim.inference.export.formats.onnx import ONNX_PACKAGES, write_onnx
from deim.inference.export.graph import INPUT_NAME, SIZES_NAME
from deim.inference.export.metadata import Metadata
from deim.inference.export.model import ExportableModel
from deim.inference.export.session import Session

# Minimum, optimal and maximum batch size of engines with dynamic batch size.
_BATCHES = (1, 4, 16)


class TensorRTExporter(Exporter):
    """TensorRT engines. The ``.engine.onnx`` file is verified and kept, as engines for other GPUs are built from it."""

    suffix, runtime, packages = ".engine", "TensorRT", ONNX_PACKAGES
    support = Support(
        precisions=("float32", "float16"),
        attention=("gather", "grid_sample", "plugin"),
        dynamic_batch=True,
        opset=True,
        detrex=True,
        hints={
            "int8": "TensorRT quantizes float32 files itself: export .onnx without --int8, then run trtexec --int8 "
            "--calib=..."
        },
    )

    def write(self, model: ExportableModel, path: str) -> str:
        onnx_file = _onnx_file(path)
        write_onnx(model, onnx_file)
        return onnx_file

    def finish(self, model: ExportableModel, path: str, log: Callable[[str], None]) -> None:
        batches = _BATCHES if model.options.dynamic_batch else None
        build_engine(trtexec_command(_onnx_file(path), path, model.metadata, batches))
        Path(path + ".json").write_text(model.metadata.to_json(), encoding="utf-8")
        log(f"wrote {path}; its inputs and outputs are described in {path}.json")

    def unavailable_reason(self) -> str:
        return "deim does not run TensorRT engines"

    def open(self, path: str, device: str) -> Session:
        raise ConfigError(
            f"{path} is a TensorRT engine, which deim does not run: use TensorRT, or predict with {_onnx_file(path)}"
        )


def _onnx_file(engine: str) -> str:
    # Not ``<name>.onnx``, which may be an export for other runtimes.
    return f"{engine}.onnx"


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
        for name, batch in zip(("min", "opt", "max"), batches, strict=True):
            sizes = f",{SIZES_NAME}:{batch}x2" if metadata.interface == "official" else ""
            arguments.append(f"--{name}Shapes={INPUT_NAME}:{batch}x3x{height}x{width}{sizes}")
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
