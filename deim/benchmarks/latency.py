"""Latency of deployed models, from normalized pixels to logits and boxes."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deim.benchmarks.official_code import official_config, require_checkout
from deim.benchmarks.timing import print_report, time_interleaved, timing_rows
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import build, load_config
from deim.engine.model import MEMORY_FORMATS
from deim.inference import to_deployment
from deim.inference.cuda_graphs import CudaGraphs

OFFICIAL = "official"


class Network(nn.Module):
    """A detector without pre- and postprocessing: (B, 3, H, W) -> logits and boxes."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.backbone, self.encoder = detector.get_submodule("backbone"), detector.get_submodule("encoder")
        self.decoder = detector.get_submodule("decoder")

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        groups, _ = self.decoder(self.encoder(self.backbone(pixels)))
        return groups["main"].logits[-1], groups["main"].boxes[-1]


def run(
    recipe: str,
    peer: str | None,
    batch: int,
    size: int,
    rounds: int,
    device_name: str,
    compile: bool,
    half: bool,
    path: str | None,
) -> None:
    """Print the latency of the deployed forms of a recipe and, if ``peer`` is given, of the official deployed model.

    Args:
        recipe: name of the recipe.
        peer: checkout of the official DEIM code, or None.
        batch: number of images per call.
        size: side of the square images in pixels.
        rounds: number of timed rounds.
        device_name: such as "cpu" or "cuda".
        compile: also measure this project's model with ``torch.compile``.
        half: run all models under autocast to float16.
        path: JSON file for the results; if None, no file is written.

    Raises:
        ConfigError: if ``peer`` is not a checkout of the official DEIM code, or if that code has no such model.
    """
    device = torch.device(device_name)
    model, official = build(load_config(recipe), "model"), None
    if peer is not None:
        require_checkout(peer)
        official = official_config(peer, recipe, size).model
        model.load_state_dict(to_native_layout(StoredWeights(OFFICIAL, official.state_dict()), model), strict=True)
        official = official.deploy().to(device)
    pixels = torch.rand(batch, 3, size, size, device=device)
    networks = _variants(model.to(device), official, compile, half)
    with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=half):
        runs = {name: _bind(network, pixels) for name, network in networks.items()}
        times = time_interleaved(runs, rounds, device)
    table = timing_rows(times, OFFICIAL if official is not None else None)
    print_report([{"recipe": recipe, "batch": batch, **row} for row in table], path, device)


def _variants(
    model: nn.Module, official: nn.Module | None, compile: bool, half: bool
) -> dict[str, Callable[[Tensor], Any]]:
    networks: dict[str, Callable[[Tensor], Any]] = {}
    for name, memory_format in MEMORY_FORMATS.items():
        if official is not None:
            label = OFFICIAL if name == "contiguous" else f"{OFFICIAL}, {name}"
            networks[label] = copy.deepcopy(official).to(memory_format=memory_format)  # type: ignore[call-overload]
        networks[f"deim, {name}"] = Network(to_deployment(model, memory_format=memory_format, half=half))
    if compile:
        networks["deim, compiled"] = Network(to_deployment(model, compile=True, half=half))
    if next(model.parameters()).is_cuda:
        captured = [name for name in networks if name in ("deim, channels_last", "deim, compiled")]
        networks |= {f"{name}, CUDA graph": CudaGraphs(networks[name]) for name in captured}
    return networks


def _bind(network: Callable[[Tensor], Any], pixels: Tensor) -> Callable[[], Any]:
    return lambda: network(pixels)
