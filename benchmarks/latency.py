"""Latency of deployed models and of the official deployed model, from normalized pixels to logits and boxes."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.official_code import OFFICIAL, official_config, official_model, recognize_checkout
from deim.checkpoint.loading import to_native_layout
from deim.checkpoint.reading import StoredWeights
from deim.config import build, load_config
from deim.engine.model import MEMORY_FORMATS
from deim.measurement.latency import deployed_networks, time_networks
from deim.measurement.timing import print_report, timing_rows


def run(
    recipe: str,
    peer: str,
    batch: int,
    size: int,
    rounds: int,
    device_name: str,
    compile: bool,
    half: bool,
    path: str | None,
) -> None:
    """Print the latency of the deployed forms of a recipe and of the official deployed model with the same weights.

    Args:
        peer: checkout of the official code.
        recipe, batch, size, rounds, device_name, compile, half, path: see :func:`deim.measurement.latency.run`.

    Raises:
        ConfigError: if ``peer`` is not a checkout of official code, or if that code has no such model.
    """
    overrides = recognize_checkout(peer).overrides
    device = torch.device(device_name)
    model = build(load_config(recipe, overrides), "model")
    official = official_model(official_config(peer, recipe, size))
    model.load_state_dict(to_native_layout(StoredWeights(OFFICIAL, official.state_dict()), model), strict=True)
    official = official.deploy().to(device)
    networks: dict[str, Callable[[Tensor], Any]] = {}
    deployed = deployed_networks(model.to(device), compile, half)
    for name, memory_format in MEMORY_FORMATS.items():
        label = OFFICIAL if name == "contiguous" else f"{OFFICIAL}, {name}"
        networks[label] = copy.deepcopy(official).to(memory_format=memory_format)
        networks[f"deim, {name}"] = deployed.pop(f"deim, {name}")
    table = timing_rows(time_networks(networks | deployed, batch, size, rounds, device, half), OFFICIAL)
    print_report([{"recipe": recipe, "batch": batch, **row} for row in table], path, device)
