"""Export of a checkpoint to a verified file."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

from deim.errors import ExportError
from deim.inference.export.formats import check_model, check_support, exporter_of
from deim.inference.export.model import ExportableModel, prepare_export
from deim.inference.export.options import ExportOptions
from deim.inference.export.verification import compare_detections
from deim.inference.images import as_rgb, iterate_images
from deim.inference.trained_model import load_trained
from deim.modeling.detector import DEIMDetector

# Maximum number of images to read from a directory.
_MAX_IMAGES = 16


def default_attention_form(output: str) -> str:
    """Return the best form of deformable attention for the runtime of the output file.

    Raises:
        ConfigError: if the suffix of the file is unknown.
    """
    return exporter_of(output).support.attention[0]


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
        output: output file; its suffix, one of those in :data:`deim.inference.export.formats.EXPORTERS`, selects the
            format.
        images: directory of images for verification and int8 calibration; default: generated images, no calibration.
        log: called with progress messages.

    Raises:
        ConfigError: if an option is invalid, or a required package or program is not installed.
        CheckpointError: if the checkpoint cannot be loaded.
        DatasetError: if an image cannot be read.
        ExportError: if the file's detections differ from those of torch, or if this machine cannot run the file.
    """
    exporter = exporter_of(output)
    options.check()
    check_support(exporter, options)
    options = dataclasses.replace(options, attention=options.attention or default_attention_form(output))
    exporter.require()
    rgb_images = [as_rgb(image) for image in itertools.islice(iterate_images(images), _MAX_IMAGES)] if images else []
    trained = load_trained(model, weights)
    is_deim = isinstance(trained.model, DEIMDetector)
    check_model(exporter, getattr(trained.model, "predicted_fields", ()), not is_deim)
    exportable = prepare_export(trained, options, rgb_images)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    _check(exporter.write(exportable, output), exportable, rgb_images, log)
    exporter.finish(exportable, output, log)


def _check(path: str, model: ExportableModel, rgb_images: list, log: Callable[[str], None]) -> None:
    exporter = exporter_of(path)
    size = f"{exporter.size(path) / 2**20:.1f} MiB"
    reason = exporter.unavailable_reason()
    if reason is not None:
        raise ExportError(
            f"{path} was written ({size}), but its detections were not compared with those of torch: {reason}"
        )
    session = exporter.open(path, "cpu")
    agreement = compare_detections(model.graph, session, model.metadata, model.fixed_batch, rgb_images)
    agreement.check(path, model.metadata.dtype)
    log(
        f"wrote {path} ({size}). {session.description} finds {agreement.num_matched} of "
        f"{agreement.num_detections} detections of torch; maximum difference {agreement.max_difference:.1g}; "
        f"{'' if agreement.mask_iou is None else f'mean IoU of masks {agreement.mask_iou:.3f}; '}"
        f"batches: {', '.join(agreement.batch_shapes)}"
    )
