"""detectron2's tools for model analysis and export: tracing, scripting, operation counts."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis, flop_count_table

from deim.fallback import is_standalone
from deim.measurement.latency import Network
from tests.models import FAMILIES, randomize, tiny_model

needs_detectron2 = pytest.mark.skipif(is_standalone("detectron2"), reason="needs the real detectron2")


def image(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(height), dtype=torch.uint8)


class SingleImageDetector(torch.nn.Module):
    """A detector of one image, from tensor to tensors."""

    def __init__(self, detector: torch.nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        instances = self.detector([{"image": pixels}])[0]["instances"]
        return instances.pred_boxes.tensor, instances.scores


@pytest.mark.parametrize("family", ["dfine", "dn"])
@torch.no_grad()
def test_torch_trace_supports_other_image_sizes(family: str) -> None:
    model = SingleImageDetector(randomize(tiny_model(family=family)).double().eval())
    traced = torch.jit.trace(model, image(96, 128), check_trace=False)
    for size in ((96, 128), (130, 101)):
        for actual, expected in zip(traced(image(*size)), model(image(*size)), strict=True):
            torch.testing.assert_close(actual, expected)


@needs_detectron2
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_tracing_adapter_supports_other_image_sizes(family: str) -> None:
    """Uses detectron2's TracingAdapter, like its deployment tools."""
    from detectron2.export import TracingAdapter

    model = randomize(tiny_model(family=family)).double().eval()
    inputs = [{"image": image(96, 128)}]
    adapter = TracingAdapter(model, inputs)
    traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    for size in ((96, 128), (160, 96), (130, 101)):
        flat = traced(image(*size))
        actual = adapter.outputs_schema(flat)[0]["instances"]
        expected = model([{"image": image(*size)}])[0]["instances"]
        torch.testing.assert_close(actual.scores, expected.scores)
        torch.testing.assert_close(actual.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(actual.pred_classes, expected.pred_classes)


@pytest.mark.parametrize("family", FAMILIES)
def test_flop_count(family: str) -> None:
    model = Network(tiny_model(family=family).eval())
    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, 128, 128)).unsupported_ops_warnings(False)
    assert analysis.by_module()["decoder"] > 1e6


@needs_detectron2
@pytest.mark.parametrize("family", ["dfine", "deformable"])
def test_detectron2_flop_and_activation_counts(family: str) -> None:
    from detectron2.utils.analysis import FlopCountAnalysis, activation_count_operators

    model, inputs = tiny_model(family=family).eval(), [{"image": image(128, 128)}]
    analysis = FlopCountAnalysis(model, inputs)
    assert analysis.by_module()["model.decoder"] > 1e6
    assert "decoder" in flop_count_table(analysis, max_depth=1)
    assert sum(activation_count_operators(model, inputs).values()) > 0


@pytest.mark.parametrize("family", ["dfine", "deformable"])
def test_scripting_is_an_error(family: str) -> None:
    with pytest.raises(NotImplementedError, match=r"cannot be scripted.*torch\.jit\.trace.*deim export"):
        torch.jit.script(tiny_model(family=family).eval())
