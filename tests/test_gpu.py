"""Tests that require a GPU; `make gpu` runs them."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from deim.engine.performance.cuda_graphs import capture_training_graphs
from deim.inference import to_deployment
from tests.models import FAMILIES, REAL_TIME, batch, randomize, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
Step = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(autouse=True)
def in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable TF32 for convolutions; matrix products do not use TF32 by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw all random numbers on the CPU, because devices have different generators."""
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
    """Return the losses and the gradients, on the CPU."""
    torch.manual_seed(seed)
    model.zero_grad()
    losses = model(samples)
    sum(losses.values()).backward()
    gradients = {name: value.grad.cpu() for name, value in model.named_parameters() if value.grad is not None}
    return {name: value.detach().cpu() for name, value in losses.items()}, gradients


def relative_distance(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert actual.keys() == expected.keys()
    squares = [[(actual[name] - value).square().sum(), value.square().sum()] for name, value in expected.items()]
    distance, norm = torch.tensor(squares, dtype=torch.float64).sum(dim=0).sqrt()
    return float(distance / norm)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("family", FAMILIES)
def test_step_on_gpu_equals_step_on_cpu(family: str) -> None:
    """Compare in float64, except for the criterion, so that rounding does not decide the selection of queries."""
    model = randomize(tiny_model(family=family)).double().train()
    expected = step(copy.deepcopy(model), batch([3, 0, 1], size=128))
    actual = step(model.cuda(), batch([3, 0, 1], size=128))
    assert max(relative_distance(*pair) for pair in zip(actual, expected, strict=True)) < 1e-5


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_gpu_kernels_equal_losses_on_cpu(family: str) -> None:
    model = randomize(tiny_model(family=family)).train()
    expected, _ = step(copy.deepcopy(model), batch([3, 0, 1], size=128))
    actual, _ = step(model.cuda(), batch([3, 0, 1], size=128))
    assert relative_distance(actual, expected) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_precision_trains(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family=family).cuda().train()
    with torch.autocast("cuda", dtype):
        losses, gradients = step(model, batch([3, 0, 1], size=128))
    assert all(value.isfinite() for value in losses.values())
    assert all(value.isfinite().all() for value in gradients.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_host_synchronization_per_step(family: str) -> None:
    """The matching costs are copied to the host."""
    model = tiny_model(family=family).cuda().train()
    samples = batch([3, 0, 1], size=128)
    for sample in samples:
        sample["image"] = sample["image"].pin_memory()
    for _ in range(2):
        sum(model(samples).values()).backward()
    with warnings.catch_warnings(record=True) as warning_records:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sum(model(samples).values()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    synchronizations = [
        record for record in warning_records if "called a synchronizing CUDA operation" in str(record.message)
    ]
    assert len(synchronizations) == 1, [f"{record.filename}:{record.lineno}" for record in synchronizations]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", REAL_TIME)
@torch.inference_mode()
def test_cuda_graph_detections_equal_eager_detections(family: str, half: bool) -> None:
    model = randomize(tiny_model(family=family)).cuda()
    eager, replayed = (to_deployment(model, half=half, cuda_graph=graph) for graph in (False, True))
    for seed, images in enumerate((1, 2, 1, 2)):
        samples = batch([1] * images, seed=seed)
        with torch.autocast("cuda", torch.float16, enabled=half):
            expected, actual = eager(samples), replayed(samples)
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a["instances"].scores, b["instances"].scores)
            torch.testing.assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("family", REAL_TIME)
def test_cuda_graph_training_equals_eager_training(family: str, amp: bool) -> None:
    """Compare losses, gradients and normalization statistics for two alternating image sizes."""
    eager = randomize(tiny_model(family=family)).cuda().train()
    replayed = copy.deepcopy(eager)
    capture_training_graphs(replayed)
    for seed, size in enumerate((64, 96, 64, 96)):
        samples = batch([3, 1], size=size, seed=seed)
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            expected, actual = step(eager, samples, seed), step(replayed, samples, seed)
        assert max(relative_distance(*pair) for pair in zip(actual, expected, strict=True)) < (0.1 if amp else 1e-3)
        statistics = [dict(model.named_buffers()) for model in (replayed, eager)]
        for name, value in statistics[1].items():
            torch.testing.assert_close(statistics[0][name], value, msg=name)
    replayed.eval()
    assert len(replayed(batch([1]))) == 1
