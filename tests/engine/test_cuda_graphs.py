"""What is recorded on a GPU, as far as it can be told without one; tests/test_gpu.py has the rest."""

import weakref
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from deim.engine.cuda_graphs import record_features
from deim.engine.preflight import check_settings
from deim.errors import ConfigError
from deim.inference import cuda_graphs, to_deployment
from deim.inference.cuda_graphs import CudaGraphs
from deim.inference.deployment import halve_weights
from deim.layers.tracing import cached_tensors, collect_cached_tensors
from tests.models import batch, randomize, recipe, tiny_model


class Fake:
    """In place of a recording: counts how many there were."""

    made: ClassVar[list[torch.Size]] = []

    def __init__(self, function: cuda_graphs.Function, example: Tensor):
        self.function = function
        self.made.append(example.shape)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.function(x)


def test_every_shape_is_recorded_once_and_the_oldest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "CapturedGraph", Fake)
    monkeypatch.setattr(Fake, "made", [])
    graphs = CudaGraphs(lambda x: (x + 1,), max_graphs=2)
    for batch_size in (1, 2, 1, 2, 3, 2, 1):
        x = torch.rand(batch_size, 3)
        torch.testing.assert_close(graphs(x)[0], x + 1)
    assert [shape[0] for shape in Fake.made] == [1, 2, 3, 1]


def test_a_layout_and_a_precision_are_recorded_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "CapturedGraph", Fake)
    monkeypatch.setattr(Fake, "made", [])
    graphs = CudaGraphs(lambda x: (x,))
    x = torch.rand(1, 3, 4, 4)
    graphs(x)
    graphs(x.to(memory_format=torch.channels_last))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            graphs(x)
    graphs(x)
    assert len(Fake.made) == 4


def test_graphs_are_refused_without_a_gpu() -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="require a DEIMDetector on a GPU, got a DEIMDetector on cpu"):
        to_deployment(model, cuda_graph=True)
    with pytest.raises(ConfigError, match="requires a GPU, but the model is on cpu"):
        record_features(model)


def test_training_graphs_are_for_images_without_padding() -> None:
    with pytest.raises(ConfigError, match="requires a detector with a HybridEncoder"):
        record_features(tiny_model(family="deformable"))


@pytest.mark.parametrize("other", ["compile=true", "accumulation_steps=2", "activation_checkpointing=[backbone]"])
def test_training_graphs_are_refused_beside_what_contradicts_them(other: str) -> None:
    name = other.split("=")[0]
    with pytest.raises(ConfigError, match=f"train.cuda_graphs cannot be combined with train.{name}"):
        check_settings(recipe("deim_dfine_n_shapes", "train.cuda_graphs=true", f"train.{other}"), training=True)
    check_settings(recipe("deim_dfine_n_shapes", "train.cuda_graphs=true"), training=True)


@pytest.mark.parametrize("family", ["dfine", "rtdetr", "deformable"])
@torch.inference_mode()
def test_weights_in_half_precision_are_what_autocast_makes_of_them(family: str) -> None:
    model = to_deployment(randomize(tiny_model(family=family)))
    with torch.autocast("cpu", torch.float16):
        expected = model(batch([1, 1]))
        halve_weights(model)
        found = model(batch([1, 1]))
    assert any(parameter.dtype == torch.float16 for parameter in model.parameters())
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a["instances"].scores, b["instances"].scores)
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


def test_what_is_remembered_from_a_prediction_serves_training() -> None:
    """Tensors of inference mode cannot be used where gradients are taken."""
    model = tiny_model()
    with torch.inference_mode():
        model.eval()(batch([1], size=160))
    sum(model.train()(batch([1], size=160)).values()).backward()


def test_what_is_in_use_is_not_freed_when_it_is_forgotten() -> None:
    make = cached_tensors(lambda size: torch.zeros(size), maxsize=1)
    with collect_cached_tensors() as used:
        first = weakref.ref(make(1))
        make(2)
    make(3)
    assert first() is not None
    used.clear()
    assert first() is None
