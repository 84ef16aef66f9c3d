"""Numerical comparison of ECPose with the official code of EdgeCrafter, with the same weights, images and noise, in float64.

    python -m benchmarks.ecpose --peer path/to/EdgeCrafter/ecpose

Requires the dependencies of the official code: torchvision, faster-coco-eval, tensorboard.
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks import official_code
from benchmarks.isolation import run_in_new_process
from benchmarks.random_weights import perturb
from deim.checkpoint.formats.edgecrafter import ECPOSE
from deim.config import build, load_config
from deim.structures.keypoints import oks_sigmas
from deim.structures.predictions import Predictions, Targets

SIZES = ("s", "m", "l", "x")
# The official code has two scores, the second of which is that of persons.
NUM_CLASSES, PERSON = 2, 1
NUM_KEYPOINTS = 17
COUNTS = (2, 3)
# Replaces random numbers; no label is replaced.
UNIFORM = 0.37


@dataclass
class PoseFidelity:
    """Differences between this project and the official code.

    Attributes:
        parameters: difference of the number of parameters.
        outputs: largest difference of a logit or of a relative coordinate in evaluation.
        losses: largest difference of a loss term, relative to the sum of all terms.
        gradients: largest difference of a gradient element, relative to the largest norm of a parameter's gradient.
        relative_gradients: largest norm of the difference of a parameter's gradient, relative to its norm, among the
            parameters with a norm of at least 1e-6 of the largest.
    """

    parameters: int
    outputs: float
    losses: float
    gradients: float
    relative_gradients: float


def compare(size: str, checkout: str, side: int) -> PoseFidelity:
    """Compare a model of this project with the official one.

    Args:
        size: one of ``SIZES``.
        checkout: folder ``ecpose`` of the official code of EdgeCrafter.
        side: side of the square images in pixels.
    """
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    theirs, criterion = _official_model(size, checkout, side)
    ours = _our_model(size, theirs)
    images = torch.randn(len(COUNTS), 3, side, side)
    outputs = _compare_outputs(ours, theirs, images)
    losses, gradients, relative_gradients = _compare_training(ours, theirs, criterion, images)
    difference = sum(p.numel() for p in ours.parameters()) - sum(p.numel() for p in theirs.parameters())
    return PoseFidelity(difference, outputs, losses, gradients, relative_gradients)


def _official_model(size: str, checkout: str, side: int) -> tuple[Any, Any]:
    """Return the official model with random weights, and its criterion."""
    with official_code.in_default_dtype():
        path = Path(checkout) / f"configs/ecpose/ecpose_{size}_coco.yml"
        config = official_code.load_official_config(checkout, path, side)
        model, criterion = config.model.double(), config.criterion
    # float32 arrays of NumPy
    criterion.oks.sigmas = criterion.matcher.sigmas = oks_sigmas(NUM_KEYPOINTS)
    perturb(model)
    official_code.train_poses_in_full_precision(model)
    return model, criterion


def _our_model(size: str, theirs: nn.Module) -> Any:
    config = load_config(f"ecpose/ecpose_{size}_coco", ["model.backbone.weights=", f"model.num_classes={NUM_CLASSES}"])
    model = build(config, "model").double()
    weights, unknown = ECPOSE.to_native(theirs.state_dict())
    assert not unknown
    model.load_state_dict(weights, strict=True)
    return model


@torch.no_grad()
def _compare_outputs(ours: Any, theirs: Any, images: Tensor) -> float:
    ours.eval(), theirs.eval()
    with official_code.in_default_dtype():
        expected = theirs(images)
    main: Predictions = ours.decoder(ours.encode(images))[0]["main"]
    assert main.keypoints is not None
    differences = (
        main.logits[-1] - expected["pred_logits"],
        main.keypoints[-1].flatten(-2) - expected["pred_keypoints"],
    )
    return max(float(difference.abs().max()) for difference in differences)


def _compare_training(ours: Any, theirs: Any, criterion: Any, images: Tensor) -> tuple[float, float, float]:
    ours.train(), theirs.train()
    targets = _random_targets()
    with _same_noise():
        with official_code.in_default_dtype():
            expected = criterion(theirs(images, _official_targets(targets)), _official_targets(targets))
        groups, denoising = ours.decoder(ours.encode(images), targets)
        actual = ours.criterion(groups, targets, denoising)
    assert actual.keys() == expected.keys()
    total = float(sum(expected.values(), torch.zeros(())).detach())
    losses = max(float((actual[name] - expected[name]).detach().abs()) / total for name in expected)
    our_gradients = _gradients(ours, actual)
    their_gradients, _ = ECPOSE.to_native(_gradients(theirs, expected))
    assert our_gradients.keys() == their_gradients.keys()
    norms = {name: float(gradient.norm()) for name, gradient in their_gradients.items()}
    largest = max(norms.values())
    differences = {name: our_gradients[name] - their_gradients[name] for name in norms}
    elements = max(float(difference.abs().max()) for difference in differences.values()) / largest
    relative = max(float(differences[n].norm()) / norm for n, norm in norms.items() if norm > 1e-6 * largest)
    return losses, elements, relative


def _gradients(model: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    sum(losses.values(), torch.zeros(())).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _random_targets() -> Targets:
    """Return persons of which about two thirds of the keypoints are labeled, at least the first one."""
    keypoints, boxes, areas = [], [], []
    for count in COUNTS:
        positions = torch.rand(count, NUM_KEYPOINTS, 2) * 0.3 + torch.rand(count, 1, 2) * 0.6
        visibility = (torch.rand(count, NUM_KEYPOINTS, 1) < 0.7).double()
        visibility[:, 0] = 1
        keypoints.append(torch.cat([positions * visibility, visibility], dim=-1))
        boxes.append(torch.cat([torch.rand(count, 2) * 0.5 + 0.25, torch.rand(count, 2) * 0.3 + 0.1], dim=-1))
        areas.append(torch.rand(count) * 0.1 + 0.02)
    return Targets.collate([torch.full((count,), PERSON) for count in COUNTS], boxes, keypoints=keypoints, areas=areas)


def _official_targets(targets: Targets) -> list[dict[str, Tensor]]:
    assert targets.keypoints is not None
    assert targets.areas is not None
    fields = {
        "labels": targets.labels,
        "boxes": targets.boxes,
        "area": targets.areas,
        "keypoints": targets.keypoints,
    }
    return [
        official_code.official_target({name: values[image, :count] for name, values in fields.items()})
        for image, count in enumerate(targets.counts)
    ]


@contextmanager
def _same_noise() -> Iterator[None]:
    """Replace random numbers by numbers that depend only on the keypoint, since both codes draw in different orders."""
    directions = torch.rand(NUM_KEYPOINTS + 1, 2)

    def rand_like(x: Tensor, **options: Any) -> Tensor:
        return directions.expand_as(x).clone() if x.shape[-2:] == directions.shape else torch.full_like(x, UNIFORM)

    replacements = {
        (torch, "rand_like"): rand_like,
        (torch, "rand"): lambda *shape, **options: torch.full(torch.Size(*shape), UNIFORM),
        (torch.Tensor, "uniform_"): lambda x, low, high: x.fill_(low + UNIFORM * (high - low)),
    }
    with official_code.poses_on(torch.device("cpu")), ExitStack() as stack:
        for (owner, name), replacement in replacements.items():
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", required=True, help="folder ecpose of a checkout of the official code of EdgeCrafter")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES, help="models; default: all")
    parser.add_argument("--side", type=int, default=320, help="height and width of the images; default: %(default)s")
    args = parser.parse_args()
    if not (Path(args.peer) / "configs/ecpose").is_dir():
        parser.error(f"{args.peer} does not contain configs/ecpose: use the folder ecpose of a checkout of EdgeCrafter")
    rows = []
    for size in args.sizes:
        result = run_in_new_process(compare, size, args.peer, args.side)
        numbers = (result.outputs, result.losses, result.gradients, result.relative_gradients)
        rows.append([f"ecpose/ecpose_{size}_coco", result.parameters, *(f"{number:.0e}" for number in numbers)])
    headers = ["recipe", "parameters", "predictions", "loss terms", "gradients", "gradients of a parameter"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
