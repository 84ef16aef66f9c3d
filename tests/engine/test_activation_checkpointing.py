"""Activation checkpointing: identical training with less memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deim.engine.performance.activation_checkpointing import checkpoint_activations
from deim.errors import ConfigError
from deim.modeling.backbone.swin import build_swin
from tests.models import FAMILIES, batch, tiny_model

PARTS = ("backbone", "encoder", "decoder")


def run_two_steps(make: Callable[[], nn.Module], parts: tuple[str, ...], amp: bool) -> tuple[dict[str, Tensor], int]:
    """Return losses, gradients and statistics after two steps, and the bytes that autograd saves outside of blocks."""
    torch.manual_seed(0)
    model = make().train()
    checkpoint_activations(model, parts)
    results, saved_bytes = {}, 0

    def count_bytes(tensor: Tensor) -> Tensor:
        nonlocal saved_bytes
        saved_bytes += tensor.numel() * tensor.element_size()
        return tensor

    for number in range(2):
        torch.manual_seed(number)
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=amp)
        with mixed, torch.autograd.graph.saved_tensors_hooks(count_bytes, lambda tensor: tensor):
            losses = model(batch([2, 3], seed=number))
        sum(losses.values()).backward()
        results |= {f"{name} {number}": value.detach() for name, value in losses.items()}
    results |= {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return results | dict(model.named_buffers()), saved_bytes


def assert_only_memory_differs(
    make: Callable[[], nn.Module], parts: tuple[str, ...] = PARTS, share: float = 0.5, amp: bool = False
) -> None:
    (expected, all_bytes), (results, remaining_bytes) = run_two_steps(make, (), amp), run_two_steps(make, parts, amp)
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(results[name], value), name
    assert remaining_bytes < share * all_bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_saves_memory_with_identical_results(family: str) -> None:
    assert_only_memory_differs(lambda: tiny_model(family=family))


def test_checkpointing_with_mixed_precision() -> None:
    assert_only_memory_differs(tiny_model, amp=True)


def test_recomputation_uses_the_same_dropout_mask() -> None:
    assert_only_memory_differs(lambda: tiny_model("++model.decoder.layer.dropout=0.3"), ("decoder",), share=0.9)


def test_recomputation_uses_the_same_drop_path() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build_swin("tiny", drop_path_rate=0.5)

        def forward(self, samples: list[dict]) -> dict[str, Tensor]:
            maps = self.backbone(torch.stack([sample["image"] for sample in samples]) / 255)
            return {name: value.square().mean() for name, value in maps.items()}

    assert_only_memory_differs(Features, ("backbone",))


def test_checkpointing_does_not_change_evaluation() -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        expected = model(batch([1]))[0]["instances"]
        checkpoint_activations(model, PARTS)
        results = model(batch([1]))[0]["instances"]
    assert torch.equal(results.scores, expected.scores)
    assert torch.equal(results.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.mark.parametrize(
    ("part", "message"),
    [("neck", "the model has no module neck"), ("criterion", r"criterion \(Criterion\) has no supported blocks")],
)
def test_unsupported_modules_are_errors(part: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checkpoint_activations(tiny_model(), [part])
