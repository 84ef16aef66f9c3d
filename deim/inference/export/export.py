"""Export of a checkpoint to a verified file."""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from deim.errors import ConfigError
from deim.inference.export.onnx import ExportedModel, ExportOptions, export_onnx
from deim.inference.export.openvino import to_openvino
from deim.inference.export.tensorrt import build_engine, trtexec_command
from deim.inference.export.verification import compare_detections
from deim.inference.exported_runner import open_session
from deim.inference.images import as_rgb, iterate_images
from deim.inference.trained_model import load_trained

SUFFIXES = (".onnx", ".xml", ".engine")
# Maximum number of images to read from a directory.
_MAX_IMAGES = 16


def default_attention_form(output: str) -> str:
    """Return the best form of deformable attention for the runtime of the output file."""
    return "gather" if output.endswith(".engine") else "grid_sample"


def export(
    model: str,
    weights: str | None,
    output: str,
    options: ExportOptions,
    images: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Export a model and verify the file.

    Args:
        model, weights: see :class:`deim.Predictor`.
        output: output file; its suffix, one of :data:`SUFFIXES`, selects the format.
        images: directory of images for verification and int8 calibration; default: generated images, no calibration.
        log: called with progress messages.

    Raises:
        ConfigError: if an option is invalid, or a required package or program is not installed.
        CheckpointError: if the checkpoint cannot be loaded.
        DatasetError: if an image cannot be read.
        ExportError: if the file's detections differ from those of torch.
    """
    suffix = Path(output).suffix
    if suffix not in SUFFIXES:
        raise ConfigError(f"--output={output}: unknown suffix; choose one of {', '.join(SUFFIXES)}")
    options.check()
    if suffix == ".engine" and options.precision == "int8":
        raise ConfigError(
            "TensorRT quantizes float32 files itself: export .onnx without --int8, then run trtexec --int8 --calib=..."
        )
    if suffix == ".engine" and options.dynamic_size:
        raise ConfigError("an engine has a fixed image size: export without --dynamic-size, or export .onnx")
    if suffix == ".xml" and options.attention == "plugin":
        raise ConfigError("attention='plugin' is supported by TensorRT only: export .engine or .onnx")
    rgb_images = [as_rgb(image) for image in itertools.islice(iterate_images(images), _MAX_IMAGES)] if images else []
    trained = load_trained(model, weights)
    with tempfile.TemporaryDirectory() as folder:
        # The .onnx of an engine is kept, as engines for other GPUs are built from it.
        onnx_file = Path(folder, "model.onnx") if suffix == ".xml" else Path(output).with_suffix(".onnx")
        exported = export_onnx(trained, onnx_file, options, rgb_images)
        if suffix == ".xml":
            to_openvino(onnx_file, output, exported.metadata)
        checked_path = output if suffix == ".xml" else str(onnx_file)
        _check(checked_path, exported, options, rgb_images, log)
    if suffix == ".engine":
        batches = (1, 4, 16) if options.dynamic_batch else None
        build_engine(trtexec_command(onnx_file, output, exported.metadata, batches))
        Path(output + ".json").write_text(exported.metadata.to_json(), encoding="utf-8")
        log(f"wrote {output}; its inputs and outputs are described in {output}.json")


def _check(
    path: str, exported: ExportedModel, options: ExportOptions, rgb_images: list, log: Callable[[str], None]
) -> None:
    session = open_session(path, "cpu")
    batch = None if options.dynamic_batch else options.batch
    agreement = compare_detections(exported.graph, session, exported.metadata, batch, rgb_images)
    agreement.check(path, exported.metadata.dtype)
    size = Path(path).stat().st_size + (Path(path).with_suffix(".bin").stat().st_size if path.endswith(".xml") else 0)
    log(
        f"wrote {path} ({size / 2**20:.1f} MiB). {session.description} finds {agreement.num_matched} of "
        f"{agreement.num_detections} detections of torch; maximum difference {agreement.max_difference:.1g}; "
        f"{'' if agreement.mask_iou is None else f'mean IoU of masks {agreement.mask_iou:.3f}; '}"
        f"batches: {', '.join(agreement.batch_shapes)}"
    )
