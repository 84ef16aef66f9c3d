"""CUDA graphs, as far as they can be tested without a GPU; see also tests/test_gpu.py."""

import weakref
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from deim.engine.performance.cuda_graphs import capture_training_graphs
from deim.engine.preflight import check_settings
from deim.errors import ConfigError
from deim.inference import cuda_graphs, to_deployment
from deim.inference.cuda_graphs import CudaGraphs
from deim.inference.deployment import halve_weights
from deim.layers.tracing import cached_tensors, collect_cached_tensors
from tests.models import batch, randomize, recipe, tiny_model


class FakeCapturedGraph:
    """Replacement for :class:`~deim.inference.cuda_graphs.CapturedGraph` that lists the shapes of the captures."""

    captured_shapes: ClassVar[list[torch.Size]] = []

    def __init__(self, function: cuda_graphs.Function, example: Tensor):
        self.function = function
        self.captured_shapes.append(example.shape)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.function(x)


def test_each_shape_is_captured_once_and_the_oldest_graph_is_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "CapturedGraph", FakeCapturedGraph)
    monkeypatch.setattr(FakeCapturedGraph, "captured_shapes", [])
    graphs = CudaGraphs(lambda x: (x + 1,), max_graphs=2)
    for batch_size in (1, 2, 1, 2, 3, 2, 1):
        x = torch.rand(batch_size, 3)
        torch.testing.assert_close(graphs(x)[0], x + 1)
    assert [shape[0] for shape in FakeCapturedGraph.captured_shapes] == [1, 2, 3, 1]


def test_each_memory_format_and_precision_has_its_own_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "CapturedGraph", FakeCapturedGraph)
    monkeypatch.setattr(FakeCapturedGraph, "captured_shapes", [])
    graphs = CudaGraphs(lambda x: (x,))
    x = torch.rand(1, 3, 4, 4)
    graphs(x)
    graphs(x.to(memory_format=torch.channels_last))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            graphs(x)
    graphs(x)
    assert len(FakeCapturedGraph.captured_shapes) == 4


def test_cuda_graphs_require_a_gpu() -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="require a DEIMDetector on a GPU, got a DEIMDetector on cpu"):
        to_deployment(model, cuda_graph=True)
    with pytest.raises(ConfigError, match="requires a GPU, but the model is on cpu"):
        capture_training_graphs(model)


def test_compilation_requires_a_detector_of_deim() -> None:
    with pytest.raises(ConfigError, match="compile requires a DEIMDetector, got a Linear"):
        to_deployment(torch.nn.Linear(1, 1), compile=True)


def test_training_graphs_require_a_hybrid_encoder() -> None:
    with pytest.raises(ConfigError, match="requires a detector with a HybridEncoder"):
        capture_training_graphs(tiny_model(family="deformable"))


@pytest.mark.parametrize("other", ["compile=true", "accumulation_steps=2", "activation_checkpointing=[backbone]"])
def test_training_graphs_conflict_with_other_settings(other: str) -> None:
    name = other.split("=")[0]
    with pytest.raises(ConfigError, match=f"train.cuda_graphs cannot be combined with train.{name}"):
        check_settings(recipe("deim_dfine_n_shapes", "train.cuda_graphs=true", f"train.{other}"), training=True)
    check_settings(recipe("deim_dfine_n_shapes", "train.cuda_graphs=true"), training=True)


@pytest.mark.parametrize("family", ["dfine", "rtdetr", "deformable", "deimv2"])
@torch.inference_mode()
def test_half_precision_weights_equal_autocast(family: str) -> None:
    model = to_deployment(randomize(tiny_model(family=family)))
    with torch.autocast("cpu", torch.float16):
        expected = model(batch([1, 1]))
        halve_weights(model)
        results = model(batch([1, 1]))
    assert any(parameter.dtype == torch.float16 for parameter in model.parameters())
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a["instances"].scores, b["instances"].scores)
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


def test_cached_tensors_of_inference_mode_can_be_used_in_training() -> None:
    """The cache creates tensors outside of inference mode, since autograd cannot use tensors created in it."""
    model = tiny_model()
    with torch.inference_mode():
        model.eval()(batch([1], size=160))
    sum(model.train()(batch([1], size=160)).values()).backward()


def test_cached_tensors_in_use_survive_eviction() -> None:
    make = cached_tensors(lambda size: torch.zeros(size), maxsize=1)
    with collect_cached_tensors() as used:
        first = weakref.ref(make(1))
        make(2)
    make(3)
    assert first() is not None
    used.clear()
    assert first() is None


def test_nested_collectors_of_cached_tensors() -> None:
    make = cached_tensors(lambda size: torch.zeros(size))
    with collect_cached_tensors() as outer:
        with collect_cached_tensors() as inner:
            make(2)
        make(3)
    assert [len(inner), len(outer)] == [1, 2]
