"""Size, agreement with torch and latency of one model in every format that this machine can write and run."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.export import perturb
from deim.config import build, load_config
from deim.errors import DeimError
from deim.inference.export.formats import EXPORTERS, Exporter
from deim.inference.export.interfaces import network_inputs
from deim.inference.export.model import prepare_export
from deim.inference.export.options import ExportOptions
from deim.inference.export.verification import compare_detections, generate_images
from deim.inference.images import to_network_input
from deim.inference.trained_model import TrainedModel
from deim.measurement.timing import print_report, time_interleaved, timing_rows
from deim.structures.skeleton import Skeleton


def run(recipe: str, suffixes: list[str] | None, size: int, rounds: int, path: str | None) -> None:
    """Print a table of the formats for a recipe's model with random weights, at batch size 1 on the CPU.

    Args:
        suffixes: formats to measure; None for all.
        size: height and width of the images.
        rounds: number of interleaved measurement rounds; 0 leaves the latency out.
        path: JSON file for the results; None to write none.
    """
    torch.manual_seed(0)
    config = load_config(recipe)
    model = perturb(build(config, "model")).eval()
    fields = getattr(model, "predicted_fields", ())
    skeleton = Skeleton.for_count(model.decoder.num_keypoints) if "keypoints" in fields else None
    trained = TrainedModel(model, config, [f"class {index}" for index in range(config.model.num_classes)], skeleton)
    rows, runs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for exporter in EXPORTERS:
            for precision in exporter.support.precisions:
                if suffixes is not None and exporter.suffix not in suffixes:
                    continue
                name = f"{exporter.suffix} {precision}"
                try:
                    row, runs[name] = _measure(exporter, trained, precision, size, Path(folder))
                except DeimError as error:
                    row = {"reason": str(error).splitlines()[0]}
                rows.append({"recipe": recipe, "task": " ".join(("boxes", *fields)), "run": name} | row)
        times = {}
        if rounds:
            with torch.inference_mode():
                times = time_interleaved(runs, rounds, torch.device("cpu"))
    timings = {row["run"]: row for row in timing_rows(times)}
    print_report([row | timings.get(row["run"], {}) for row in rows], path, torch.device("cpu"))


def _measure(
    exporter: Exporter, trained: TrainedModel, precision: str, size: int, folder: Path
) -> tuple[dict[str, Any], Any]:
    """Return the columns of a format and a function to time."""
    exporter.require()
    options = ExportOptions(
        (size, size), dynamic_batch=False, precision=precision, attention=exporter.support.attention[0]
    )
    images = generate_images()
    model = prepare_export(trained, options, images)
    path = exporter.write(model, str(folder / f"{precision}{exporter.suffix}"))
    session = exporter.open(path, "cpu")
    agreement = compare_detections(model.graph, session, model.metadata, 1)
    row = {
        "MiB": exporter.size(path) / 2**20,
        "found": f"{agreement.num_matched} of {agreement.num_detections}",
        "difference": agreement.max_difference,
        "masks IoU": agreement.mask_iou,
    }
    inputs = network_inputs(model.metadata, to_network_input(images[0], (size, size), model.metadata.channels)[None])
    return row, lambda: session(*inputs)
