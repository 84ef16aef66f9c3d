"""From a checkpoint to a checked file."""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from deim.errors import ConfigError
from deim.inference.export.checking import compare
from deim.inference.export.onnx import Exported, ExportOptions, export_onnx
from deim.inference.export.openvino import to_openvino
from deim.inference.export.tensorrt import build_engine, trtexec_command
from deim.inference.exported import open_session
from deim.inference.pictures import as_rgb, listed
from deim.inference.source import load_trained

SUFFIXES = (".onnx", ".xml", ".engine")
# Pictures of a folder that are looked at.
_FEW = 16


def usual_attention(output: str) -> str:
    """The form of deformable attention that is best for what runs the file."""
    return "gather" if output.endswith(".engine") else "grid_sample"


def export(
    model: str,
    weights: str | None,
    output: str,
    options: ExportOptions,
    images: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Write a model and check what was written.

    Args:
        model, weights: see :class:`deim.Predictor`.
        output: the file; its suffix, one of :data:`SUFFIXES`, is its format.
        images: a folder of pictures to check with; drawn ones by default.
        tell: called with lines that say what is done.

    Raises:
        ConfigError: an option makes no sense, or what writes a format is not here.
        ExportError: the file does not find what torch finds.
    """
    suffix = Path(output).suffix
    if suffix not in SUFFIXES:
        raise ConfigError(f"--output={output}: its suffix says the format; choose one of {', '.join(SUFFIXES)}")
    options.check()
    if suffix == ".engine" and options.precision == "int8":
        raise ConfigError(
            "TensorRT makes its own int8 of a float32 file: export .onnx, then trtexec --int8 --calib=..."
        )
    if suffix == ".xml" and options.attention == "plugin":
        raise ConfigError("attention='plugin' is a node that only TensorRT knows: export .engine or .onnx")
    pictures = [as_rgb(one) for one in itertools.islice(listed(images), _FEW)] if images else []
    trained = load_trained(model, weights)
    with tempfile.TemporaryDirectory() as folder:
        # an engine's graph is kept: it is what other GPUs' engines are made of
        onnx_file = Path(folder, "model.onnx") if suffix == ".xml" else Path(output).with_suffix(".onnx")
        exported = export_onnx(trained, onnx_file, options, pictures)
        if suffix == ".xml":
            to_openvino(onnx_file, output, exported.metadata)
        checked = output if suffix == ".xml" else str(onnx_file)
        _check(checked, exported, options, pictures, tell)
    if suffix == ".engine":
        batches = (1, 4, 16) if options.dynamic_batch else None
        build_engine(trtexec_command(onnx_file, output, exported.metadata, batches))
        Path(output + ".json").write_text(exported.metadata.to_json(), encoding="utf-8")
        tell(f"wrote {output}; what it takes and gives stands in {output}.json")


def _check(path: str, exported: Exported, options: ExportOptions, pictures: list, tell: Callable[[str], None]) -> None:
    session = open_session(path, "cpu")
    batch = None if options.dynamic_batch else options.batch
    agreement = compare(exported.graph, session, exported.metadata, batch, pictures)
    agreement.check(path, exported.metadata.dtype)
    size = Path(path).stat().st_size + (Path(path).with_suffix(".bin").stat().st_size if path.endswith(".xml") else 0)
    tell(
        f"wrote {path} ({size / 2**20:.1f} MiB). In {session.description} it finds {agreement.found} of {agreement.kept} detections "
        f"of torch, which differ by at most {agreement.difference:.1g}; images: {', '.join(agreement.batches)}"
    )
