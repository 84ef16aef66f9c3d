"""Comparison of files of the interface "official" with those that the official scripts write from the same random weights.

    python -m benchmarks.official_files --peer path/to/official/DEIMv2 --recipes deimv2/deimv2_dinov3_s_coco

The official module is exported by both of torch's exporters: the one that records a trace (the default until torch 2.8) and
``torch.export`` (the default since torch 2.9). The official scripts leave the choice to torch. Requires the dependencies of
the official code: torchvision, faster-coco-eval, tensorboard.
"""

import argparse
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from benchmarks import official_code
from benchmarks.export import OfficialGraph
from benchmarks.isolation import run_in_new_process
from benchmarks.random_weights import perturb
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import build, load_config
from deim.inference.export.formats.onnx import export_onnx, start_onnx
from deim.inference.export.options import ExportOptions
from deim.inference.trained_model import TrainedModel

# torch's exporters, by the value of `dynamo`.
EXPORTERS = {"trace": False, "torch.export": True}
# The lowest opset that both exporters support.
_OPSET = 18
# Width and height in which the files return boxes.
_IMAGE_SIZE = (640, 480)

Outputs = Mapping[str, np.ndarray]


def compare(recipe: str, checkout: str, side: int, exporters: list[str]) -> list[dict[str, Any]]:
    """Return a row per exporter.

    Args:
        recipe: name of a recipe that the official code also has.
        checkout: checkout of the official code.
        side: height and width of the images.
        exporters: of :data:`EXPORTERS`.
    """
    torch.manual_seed(0)
    official = official_code.official_config(checkout, recipe, side)
    theirs = official_code.official_model(official)
    perturb(theirs)
    config = load_config(recipe, official_code.recognize_checkout(checkout).overrides)
    ours = build(config, "model").eval()
    ours.load_state_dict(
        to_native_layout(StoredWeights(official_code.OFFICIAL, theirs.state_dict()), ours), strict=True
    )
    trained = TrainedModel(ours, config, [f"class {index}" for index in range(config.model.num_classes)])
    images, sizes = torch.randn(1, 3, side, side), torch.tensor([_IMAGE_SIZE])
    graph, rows = OfficialGraph(official).eval(), []
    with tempfile.TemporaryDirectory() as folder:
        options = ExportOptions((side, side), interface="official")
        exported = export_onnx(trained, Path(folder, "ours.onnx"), options)
        names = list(exported.metadata.outputs)
        our_file = _run(exported.path, names, images, sizes)
        with torch.no_grad():
            tensors = graph(images, sizes)
        official_torch = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        rows.append({"recipe": recipe, "file": "this package", **_differences(our_file, official_torch)})
        for exporter in exporters:
            path = Path(folder, f"{exporter}.onnx")
            _export_official(graph, path, names, images, sizes, EXPORTERS[exporter])
            theirs_file = _run(path, names, images, sizes)
            rows.append(
                {"recipe": recipe, "file": f"official, {exporter}", **_differences(theirs_file, official_torch)}
            )
    return rows


def _export_official(
    graph: OfficialGraph, path: Path, names: list[str], images: torch.Tensor, sizes: torch.Tensor, dynamo: bool
) -> None:
    """Export as the official scripts do. They record gradients; otherwise attention is one operator that ONNX lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (torch.rand_like(images), sizes),
            str(path),
            input_names=["images", "orig_target_sizes"],
            output_names=names,
            opset_version=_OPSET,
            do_constant_folding=True,
            dynamo=dynamo,
            verbose=False,
        )


def _run(path: Path, names: list[str], images: torch.Tensor, sizes: torch.Tensor) -> dict[str, np.ndarray]:
    inputs = {"images": images.numpy(), "orig_target_sizes": sizes.numpy()}
    return dict(zip(names, start_onnx(str(path)).run(names, inputs), strict=True))


def _differences(outputs: Outputs, expected: Outputs) -> dict[str, str]:
    """Compare each expected detection with the closest of the same class, since rounding may swap ranks."""
    field = "boxes" if "boxes" in expected else "keypoints"
    points, expected_points = (values[field][0].reshape(len(values["scores"][0]), -1) for values in (outputs, expected))
    distances = np.abs(points[None] - expected_points[:, None]).max(axis=2)
    distances[expected["labels"][0][:, None] != outputs["labels"][0][None]] = np.inf
    closest, pixels = distances.argmin(axis=1), distances.min(axis=1)
    scores = np.abs(outputs["scores"][0][closest] - expected["scores"][0])
    cells = {
        "scores": f"{scores.max():.0e}",
        "pixels, median": f"{np.median(pixels):.0e}",
        "pixels, largest": f"{pixels.max():.0e}",
    }
    if "masks" in expected:
        masks = (outputs["masks"][0][closest] > 0) == (expected["masks"][0] > 0)
        cells["equal mask pixels"] = f"{masks.mean():.4%}"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", required=True, help="checkout of the official code of DEIM, DEIMv2 or EdgeCrafter")
    parser.add_argument(
        "--recipes", nargs="+", help="recipe names; default: all that the official code has a config for"
    )
    parser.add_argument("--side", type=int, default=320, help="height and width of the images; default: %(default)s")
    parser.add_argument(
        "--exporters",
        nargs="+",
        choices=tuple(EXPORTERS),
        default=list(EXPORTERS),
        help="torch's exporters; default: all",
    )
    args = parser.parse_args()
    recipes = args.recipes or official_code.official_recipes(args.peer)
    rows = []
    for recipe in recipes:
        rows += run_in_new_process(compare, recipe, args.peer, args.side, args.exporters)
    print(tabulate(rows, "keys", tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
