"""Latency of deployed models, from normalized pixels to logits, boxes, keypoints and masks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deim.config import build, load_config
from deim.engine.model import MEMORY_FORMATS
from deim.inference import to_deployment
from deim.inference.cuda_graphs import CudaGraphs
from deim.measurement.timing import print_report, time_interleaved, timing_rows


class Network(nn.Module):
    """A detector without pre- and postprocessing: (B, 3, H, W) -> logits and boxes, keypoints, masks."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.backbone, self.encoder = detector.get_submodule("backbone"), detector.get_submodule("encoder")
        self.decoder = detector.get_submodule("decoder")

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        groups, _ = self.decoder(self.encoder(self.backbone(pixels)))
        predictions = groups["main"]
        outputs: list[Tensor] = [predictions.logits[-1], predictions.boxes[-1]]
        if predictions.keypoints is not None:
            outputs.append(predictions.keypoints[-1])
        if predictions.masks is not None:
            # As in detection, where the best 300 pairs of query and class have up to 300 masks.
            images, queries = outputs[0].shape[:2]
            every_query = torch.arange(queries, device=pixels.device).expand(images, -1)
            outputs.append(predictions.masks.select(-1, every_query))
        return tuple(outputs)


def run(
    recipe: str, batch: int, size: int, rounds: int, device_name: str, compile: bool, half: bool, path: str | None
) -> None:
    """Print the latency of the deployed forms of a recipe.

    Args:
        recipe: name of the recipe.
        batch: number of images per call.
        size: side of the square images in pixels.
        rounds: number of timed rounds.
        device_name: such as "cpu" or "cuda".
        compile: also measure the model with ``torch.compile``.
        half: run all models under autocast to float16.
        path: JSON file for the results; if None, no file is written.
    """
    device = torch.device(device_name)
    networks = deployed_networks(build(load_config(recipe), "model").to(device), compile, half)
    table = timing_rows(time_networks(networks, batch, size, rounds, device, half))
    print_report([{"recipe": recipe, "batch": batch, **row} for row in table], path, device)


def deployed_networks(model: nn.Module, compile: bool, half: bool) -> dict[str, Callable[[Tensor], Any]]:
    """Return the deployed forms of a model by name.

    Args:
        model: a :class:`~deim.modeling.detector.DEIMDetector`.
        compile: include the form compiled by ``torch.compile``.
        half: store weights in float16.
    """
    networks: dict[str, Callable[[Tensor], Any]] = {
        f"deim, {name}": Network(to_deployment(model, memory_format=memory_format, half=half))
        for name, memory_format in MEMORY_FORMATS.items()
    }
    if compile:
        networks["deim, compiled"] = Network(to_deployment(model, compile=True, half=half))
    if next(model.parameters()).is_cuda:
        captured = [name for name in networks if name in ("deim, channels_last", "deim, compiled")]
        networks |= {f"{name}, CUDA graph": CudaGraphs(networks[name]) for name in captured}
    return networks


def time_networks(
    networks: Mapping[str, Callable[[Tensor], Any]],
    batch: int,
    size: int,
    rounds: int,
    device: torch.device,
    half: bool,
) -> dict[str, list[float]]:
    """Return the seconds of every round of every network, for random images (batch, 3, size, size)."""
    pixels = torch.rand(batch, 3, size, size, device=device)
    with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=half):
        return time_interleaved({name: _bind(network, pixels) for name, network in networks.items()}, rounds, device)


def _bind(network: Callable[[Tensor], Any], pixels: Tensor) -> Callable[[], Any]:
    return lambda: network(pixels)
