"""Tests that require a GPU; `make gpu` runs them."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deim.engine.performance.cuda_graphs import capture_training_graphs
from deim.inference import to_deployment
from deim.inference.export.formats.onnx import export_onnx
from deim.inference.export.graph import example_input
from deim.inference.export.options import ExportOptions
from deim.inference.exported_runner import load_exported
from deim.inference.trained_model import TrainedModel
from tests.models import FAMILIES, REAL_TIME, TASKS, batch, randomize, recipe, task_batch, task_model, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
Step = tuple[dict[str, Tensor], dict[str, Tensor]]


def make_model(name: str) -> nn.Module:
    """Return the small model of one of the ``FAMILIES`` or ``TASKS``."""
    return task_model(name) if name in TASKS else tiny_model(family=name)


def make_batch(name: str, counts: list[int], size: int = 64, seed: int = 0) -> list[dict]:
    """Return random samples for :func:`make_model`."""
    return task_batch(name, counts, size, seed) if name in TASKS else batch(counts, size, seed=seed)


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
@pytest.mark.parametrize("name", [*FAMILIES, *TASKS])
def test_step_on_gpu_equals_step_on_cpu(name: str) -> None:
    """Compare in float64, except for the criterion, so that rounding does not decide the selection of queries."""
    model, samples = randomize(make_model(name)).double().train(), make_batch(name, [3, 0, 1], 128)
    expected = step(copy.deepcopy(model), samples)
    actual = step(model.cuda(), samples)
    assert max(relative_distance(*pair) for pair in zip(actual, expected, strict=True)) < 1e-5


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("name", [*FAMILIES, *TASKS])
def test_losses_of_gpu_kernels_equal_losses_on_cpu(name: str) -> None:
    model, samples = randomize(make_model(name)).train(), make_batch(name, [3, 0, 1], 128)
    expected, _ = step(copy.deepcopy(model), samples)
    actual, _ = step(model.cuda(), samples)
    assert relative_distance(actual, expected) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*FAMILIES, *TASKS])
def test_mixed_precision_trains(name: str, dtype: torch.dtype) -> None:
    model = make_model(name).cuda().train()
    with torch.autocast("cuda", dtype):
        losses, gradients = step(model, make_batch(name, [3, 0, 1], 128))
    assert all(value.isfinite() for value in losses.values())
    assert all(value.isfinite().all() for value in gradients.values())


@pytest.mark.parametrize("name", [*FAMILIES, *TASKS])
def test_one_host_synchronization_per_step(name: str) -> None:
    """The matching costs are copied to the host."""
    model, samples = make_model(name).cuda().train(), make_batch(name, [3, 0, 1], 128)
    for sample in samples:
        sample["image"] = sample["image"].pin_memory()
    for loss in model.criterion.losses.values():
        if hasattr(loss, "class_weights"):
            loss.class_weights = [1.0] * model.criterion.num_classes
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


def assert_equal_detections(actual: list[dict], expected: list[dict]) -> None:
    """Compare all fields of detections; a few pixels of masks may differ, where their logits are zero up to rounding."""
    for ours, theirs in zip(actual, expected, strict=True):
        fields, others = ours["instances"].get_fields(), theirs["instances"].get_fields()
        assert fields.keys() == others.keys()
        for field, value in fields.items():
            a, b = (getattr(x, "tensor", x).cpu() for x in (value, others[field]))
            if a.dtype == torch.bool:
                assert (a != b).double().mean() < 1e-3, field
            else:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3, msg=lambda text, field=field: f"{field}: {text}")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", [*REAL_TIME, *TASKS])
@torch.inference_mode()
def test_cuda_graph_detections_equal_eager_detections(name: str, half: bool) -> None:
    model = randomize(make_model(name)).cuda()
    eager, replayed = (to_deployment(model, half=half, cuda_graph=graph) for graph in (False, True))
    for seed, images in enumerate((1, 2, 1, 2)):
        samples = batch([1] * images, seed=seed)
        with torch.autocast("cuda", torch.float16, enabled=half):
            assert_equal_detections(replayed(samples), eager(samples))


@pytest.mark.parametrize("name", TASKS)
@torch.inference_mode()
def test_deployed_detections_on_gpu_equal_detections_on_cpu(name: str) -> None:
    """Compare in float64, so that rounding decides neither the selection of queries nor the order of the detections."""
    model, samples = randomize(make_model(name)).double().eval(), batch([1, 1], 128)
    expected = model(samples)
    assert_equal_detections(to_deployment(copy.deepcopy(model).cuda())(samples), expected)


@pytest.mark.parametrize("name", TASKS)
@torch.inference_mode()
def test_compiled_detections_equal_eager_detections(name: str) -> None:
    model = randomize(make_model(name)).cuda()
    samples = batch([1, 1], 128)
    expected = to_deployment(model)(samples)
    assert_equal_detections(to_deployment(model, compile=True)(samples), expected)


@pytest.mark.parametrize("name", TASKS)
def test_exported_models_run_on_gpu(name: str, tmp_path: Path) -> None:
    """Run a model that is exported to ONNX on the GPU, and compare its outputs with those on the CPU."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed")
    config, file = recipe(TASKS[name]), str(tmp_path / "model.onnx")
    trained = TrainedModel(randomize(make_model(name)).eval(), config, ["object"])
    export_onnx(trained, file, ExportOptions(size=(128, 128), attention="grid_sample"))
    images = [torch.from_numpy(image) for image in example_input(2, (128, 128)).numpy()]
    detections = [load_exported(file, device)(images, [(128, 128)] * 2) for device in ("cuda", "cpu")]
    assert_equal_detections(*([{"instances": instances} for instances in results] for results in detections))


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("name", [*REAL_TIME, *TASKS])
def test_cuda_graph_training_equals_eager_training(name: str, amp: bool) -> None:
    """Compare losses, gradients and normalization statistics for two alternating image sizes."""
    eager = randomize(make_model(name)).cuda().train()
    replayed = copy.deepcopy(eager)
    capture_training_graphs(replayed)
    for seed, size in enumerate((64, 96, 64, 96)):
        samples = make_batch(name, [3, 1], size, seed)
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            expected, actual = step(eager, samples, seed), step(replayed, samples, seed)
        assert max(relative_distance(*pair) for pair in zip(actual, expected, strict=True)) < (0.1 if amp else 1e-3)
        statistics = [dict(model.named_buffers()) for model in (replayed, eager)]
        for buffer_name, value in statistics[1].items():
            torch.testing.assert_close(statistics[0][buffer_name], value, msg=buffer_name)
    replayed.eval()
    assert len(replayed(batch([1]))) == 1
