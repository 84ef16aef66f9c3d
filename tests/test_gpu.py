"""What only a GPU can tell; `make gpu` runs this."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from deim.engine.cuda_graphs import capture_training_graphs
from deim.inference import to_deployment
from tests.models import FAMILIES, REAL_TIME, batch, randomize, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
Step = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(autouse=True)
def in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions compute with ten bits otherwise; matrix products do not unless asked to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices draw different random numbers."""
    rand, randint = torch.rand, torch.randint

    def on_cpu(draw, *args, device=None, **options):
        return draw(*args, **options).to(device)

    monkeypatch.setattr(torch, "rand", lambda *args, **options: on_cpu(rand, *args, **options))
    monkeypatch.setattr(torch, "randint", lambda *args, **options: on_cpu(randint, *args, **options))
    monkeypatch.setattr(torch, "rand_like", lambda x: rand(x.shape, dtype=x.dtype).to(x.device))
    monkeypatch.setattr(
        torch, "randint_like", lambda x, *limits: randint(*limits, tuple(x.shape), dtype=x.dtype).to(x.device)
    )


def step(model: nn.Module, samples: list[dict], seed: int = 0) -> Step:
    """Losses and gradients, on the CPU."""
    torch.manual_seed(seed)
    model.zero_grad()
    losses = model(samples)
    sum(losses.values()).backward()
    gradients = {name: value.grad.cpu() for name, value in model.named_parameters() if value.grad is not None}
    return {name: value.detach().cpu() for name, value in losses.items()}, gradients


def relative_distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    squares = [[(found[name] - value).square().sum(), value.square().sum()] for name, value in expected.items()]
    distance, norm = torch.tensor(squares, dtype=torch.float64).sum(dim=0).sqrt()
    return float(distance / norm)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_that_of_the_cpu(family: str) -> None:
    """In double precision but for the criterion, so that no choice of a query and no activation hangs on rounding."""
    model = randomize(tiny_model(family=family)).double().train()
    expected = step(copy.deepcopy(model), batch([3, 0, 1], size=128))
    found = step(model.cuda(), batch([3, 0, 1], size=128))
    assert max(relative_distance(*pair) for pair in zip(found, expected, strict=True)) < 1e-5


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_by_the_kernels_are_those_of_the_cpu(family: str) -> None:
    model = randomize(tiny_model(family=family)).train()
    expected, _ = step(copy.deepcopy(model), batch([3, 0, 1], size=128))
    found, _ = step(model.cuda(), batch([3, 0, 1], size=128))
    assert relative_distance(found, expected) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_precision_trains(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family=family).cuda().train()
    with torch.autocast("cuda", dtype):
        losses, gradients = step(model, batch([3, 0, 1], size=128))
    assert all(value.isfinite() for value in losses.values())
    assert all(value.isfinite().all() for value in gradients.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_waits_once_a_step(family: str) -> None:
    """For the costs that it matches by."""
    model = tiny_model(family=family).cuda().train()
    samples = batch([3, 0, 1], size=128)
    for sample in samples:
        sample["image"] = sample["image"].pin_memory()
    for _ in range(2):
        sum(model(samples).values()).backward()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sum(model(samples).values()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in told if "called a synchronizing CUDA operation" in str(one.message)]
    assert len(waits) == 1, [f"{one.filename}:{one.lineno}" for one in waits]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", REAL_TIME)
@torch.inference_mode()
def test_replayed_detections_are_those_of_the_model(family: str, half: bool) -> None:
    model = randomize(tiny_model(family=family)).cuda()
    eager, replayed = (to_deployment(model, half=half, cuda_graph=graph) for graph in (False, True))
    for seed, images in enumerate((1, 2, 1, 2)):
        samples = batch([1] * images, seed=seed)
        with torch.autocast("cuda", torch.float16, enabled=half):
            expected, found = eager(samples), replayed(samples)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a["instances"].scores, b["instances"].scores)
            torch.testing.assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("family", REAL_TIME)
def test_replayed_training_is_training(family: str, amp: bool) -> None:
    """Two sizes of images in turns: losses, gradients, and what normalization has seen."""
    eager = randomize(tiny_model(family=family)).cuda().train()
    replayed = copy.deepcopy(eager)
    capture_training_graphs(replayed)
    for seed, size in enumerate((64, 96, 64, 96)):
        samples = batch([3, 1], size=size, seed=seed)
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            expected, found = step(eager, samples, seed), step(replayed, samples, seed)
        assert max(relative_distance(*pair) for pair in zip(found, expected, strict=True)) < (0.1 if amp else 1e-3)
        statistics = [dict(model.named_buffers()) for model in (replayed, eager)]
        for name, value in statistics[1].items():
            torch.testing.assert_close(statistics[0][name], value, msg=name)
    replayed.eval()
    assert len(replayed(batch([1]))) == 1
