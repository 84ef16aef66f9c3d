"""Size of exported files, their agreement with torch, and their latency, for every format."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_weights import perturb
from deim.config import build, load_config
from deim.errors import DeimError
from deim.inference.export.export import default_attention_form
from deim.inference.export.formats import EXPORTERS, Exporter, check_model, check_support, exporter_of
from deim.inference.export.interfaces import network_inputs
from deim.inference.export.model import ExportableModel, prepare_export
from deim.inference.export.options import ExportOptions
from deim.inference.export.session import Session, last_line
from deim.inference.export.verification import compare_detections, generate_images
from deim.inference.images import to_network_input
from deim.inference.trained_model import TrainedModel
from deim.measurement.timing import print_report, time_interleaved, timing_rows
from deim.structures.skeleton import Skeleton


def run(recipe: str, suffixes: Sequence[str] | None, size: int, rounds: int, path: str | None) -> None:
    """Print a table of the formats, for a recipe's model with random weights at batch size 1 on the CPU.

    A format that cannot be written or run has a row with the reason.

    Args:
        suffixes: formats to measure; None for all.
        size: height and width of the images.
        rounds: number of interleaved measurement rounds; 0 measures no latency.
        path: JSON file for the results; None for none.

    Raises:
        ConfigError: if a suffix is unknown.
    """
    exporters = EXPORTERS if suffixes is None else [exporter_of(suffix) for suffix in suffixes]
    trained = _random_model(recipe)
    task = " ".join(("boxes", *getattr(trained.model, "predicted_fields", ())))
    rows: list[dict[str, Any]] = []
    runs: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for exporter in exporters:
            for precision in exporter.support.precisions:
                name = f"{exporter.suffix} {precision}"
                options = ExportOptions((size, size), dynamic_batch=False, precision=precision)
                row, session_run = _measure(exporter, trained, options, Path(folder))
                # Conversions take minutes.
                print(
                    f"{name}: {', '.join(f'{key} {value}' for key, value in row.items() if value is not None)}",
                    flush=True,
                )
                rows.append({"recipe": recipe, "task": task, "run": name, **row})
                if session_run is not None:
                    runs[name] = session_run
        times = time_interleaved(runs, rounds, torch.device("cpu")) if rounds else {}
    timings = {row["run"]: row for row in timing_rows(times)}
    print_report([row | timings.get(row["run"], {}) for row in rows], path, torch.device("cpu"))


def _random_model(recipe: str) -> TrainedModel:
    torch.manual_seed(0)
    config = load_config(recipe)
    model: Any = build(config, "model").eval()
    perturb(model)
    has_keypoints = "keypoints" in getattr(model, "predicted_fields", ())
    skeleton = Skeleton.for_count(model.decoder.num_keypoints) if has_keypoints else None
    return TrainedModel(model, config, [f"class {index}" for index in range(config.model.num_classes)], skeleton)


def _measure(
    exporter: Exporter, trained: TrainedModel, options: ExportOptions, folder: Path
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """Return the columns of a format, and a function to time if this machine can run the file."""
    file = str(folder / f"{options.precision}{exporter.suffix}")
    row: dict[str, Any] = {"MiB": None, "found": None, "difference": None, "masks IoU": None, "reason": None}
    try:
        model = _exportable(exporter, trained, options)
        written = exporter.write(model, file)
        row["MiB"] = exporter.size(file) / 2**20 if written == file else None
        row["reason"] = exporter.unavailable_reason()
        if row["reason"] is not None:
            return row, None
        session = exporter.open(file, "cpu")
        row |= _agreement(model, session)
    except Exception as error:  # the converters raise exceptions of their own
        return row | {"reason": last_line(error)[:200]}, None
    pixels = to_network_input(generate_images()[0], model.size, model.metadata.channels)[None]
    inputs = network_inputs(model.metadata, pixels)
    return row, lambda: session(*inputs)


def _exportable(exporter: Exporter, trained: TrainedModel, options: ExportOptions) -> ExportableModel:
    options = dataclasses.replace(options, attention=default_attention_form(exporter.suffix))
    check_support(exporter, options)
    check_model(exporter, getattr(trained.model, "predicted_fields", ()), False)
    exporter.require()
    return prepare_export(trained, options, generate_images())


def _agreement(model: ExportableModel, session: Session) -> dict[str, Any]:
    agreement = compare_detections(model.graph, session, model.metadata, 1)
    row: dict[str, Any] = {
        "found": f"{agreement.num_matched} of {agreement.num_detections}",
        "difference": agreement.max_difference,
        "masks IoU": agreement.mask_iou,
    }
    try:
        agreement.check("the file", model.metadata.dtype)
    except DeimError as error:
        row["reason"] = str(error)
    return row
