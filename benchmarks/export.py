"""Latency and agreement of exported files, compared with torch and with the official export."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.official_code import OFFICIAL, official_config, official_model, recognize_checkout
from benchmarks.random_weights import perturb
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import build, load_config
from deim.inference import to_deployment
from deim.inference.export.formats.onnx import export_onnx, start_onnx
from deim.inference.export.formats.openvino import compile_openvino, to_openvino
from deim.inference.export.graph import example_input
from deim.inference.export.options import ExportOptions
from deim.inference.export.verification import compare_detections, generate_images
from deim.inference.exported_runner import open_session
from deim.inference.trained_model import TrainedModel
from deim.measurement.timing import print_report, time_interleaved, timing_rows

# The opset of the official export script.
_OFFICIAL_OPSET = 16


class OfficialGraph(nn.Module):
    """The module that the official script exports: normalized images and their sizes -> labels, boxes, scores."""

    def __init__(self, config: Any):
        super().__init__()
        self.model, self.postprocessor = config.model.deploy(), config.postprocessor.deploy()

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return self.postprocessor(self.model(images), sizes)


def run(recipe: str, peer: str | None, size: int, rounds: int, attention: str, path: str | None) -> None:
    """Print the latency of a recipe's model with random weights in torch, ONNX Runtime and OpenVINO, at batch size 1.

    Raises:
        ConfigError: if ``peer`` is not a checkout of the official DEIM code, if that code has no such model, or if a
            package is missing.
    """
    torch.manual_seed(0)
    config = load_config(recipe)
    model = build(config, "model").eval()
    perturb(model)
    official = None
    if peer is not None:
        recognize_checkout(peer)
        official = official_config(peer, recipe, size)
        perturb(official.model)
        model.load_state_dict(
            to_native_layout(StoredWeights(OFFICIAL, official_model(official).state_dict()), model), strict=True
        )
    with tempfile.TemporaryDirectory() as folder:
        runs, columns = _ours(model, config, size, attention, Path(folder))
        if official is not None:
            runs |= _official(official, size, Path(folder))
        with torch.inference_mode():
            times = time_interleaved(runs, rounds, torch.device("cpu"))
    table = timing_rows(times, f"{OFFICIAL}, ONNX Runtime" if official is not None else None)
    print_report([{"recipe": recipe, **row, **columns.get(row["run"], {})} for row in table], path, torch.device("cpu"))


def _ours(
    model: nn.Module, config: Any, size: int, attention: str, folder: Path
) -> tuple[dict[str, Callable], dict[str, dict]]:
    """Return the functions to time, and further table columns for each of them."""
    names = [f"class {index}" for index in range(config.model.num_classes)]
    trained = TrainedModel(model, config, names)
    images, batch = example_input(1, (size, size)), [{"image": example_input(1, (size, size))[0]}]
    deployed = to_deployment(model)
    runs: dict[str, Callable] = {"deim, torch": lambda: deployed(batch)}
    columns = {}
    for precision, label in (("float32", ""), ("int8", ", int8")):
        options = ExportOptions((size, size), dynamic_batch=False, attention=attention, precision=precision)
        exported = export_onnx(trained, folder / f"{precision}.onnx", options, generate_images())
        to_openvino(exported.path, folder / f"{precision}.xml", exported.metadata)
        for name, suffixes in (("ONNX Runtime", ("onnx",)), ("OpenVINO", ("xml", "bin"))):
            files = [folder / f"{precision}.{suffix}" for suffix in suffixes]
            session = open_session(str(files[0]), "cpu")
            agreement = compare_detections(exported.graph, session, exported.metadata, 1)
            runs[f"deim, {name}{label}"] = lambda session=session: session(images.numpy())
            columns[f"deim, {name}{label}"] = {
                "found": f"{agreement.num_matched} of {agreement.num_detections}",
                "difference": agreement.max_difference,
                "MiB": sum(file.stat().st_size for file in files) / 2**20,
            }
    return runs, columns


def _official(config: Any, size: int, folder: Path) -> dict[str, Callable]:
    images, sizes = torch.rand(1, 3, size, size), torch.tensor([[size, size]])
    path = str(folder / "official.onnx")
    torch.onnx.export(
        OfficialGraph(config).eval(),
        (images, sizes),
        path,
        input_names=["images", "orig_target_sizes"],
        output_names=["labels", "boxes", "scores"],
        opset_version=_OFFICIAL_OPSET,
        do_constant_folding=True,
        dynamo=False,
    )
    session, compiled = start_onnx(path), compile_openvino(path)
    inputs = {"images": images.numpy(), "orig_target_sizes": sizes.numpy()}
    return {
        f"{OFFICIAL}, ONNX Runtime": lambda: session.run(None, inputs),
        f"{OFFICIAL}, OpenVINO": lambda: compiled(inputs),
    }
