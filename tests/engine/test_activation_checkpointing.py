"""Activations that are computed again: the same training, with less kept."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deim.engine.activation_checkpointing import checkpoint_activations
from deim.errors import ConfigError
from deim.modeling.backbone.swin import build_swin
from tests.models import FAMILIES, batch, tiny_model

PARTS = ("backbone", "encoder", "decoder")


def a_step(make: Callable[[], nn.Module], parts: tuple[str, ...], amp: bool) -> tuple[dict[str, Tensor], int]:
    """Losses, gradients and statistics after two steps, and bytes that autograd keeps outside of the blocks."""
    torch.manual_seed(0)
    model = make().train()
    checkpoint_activations(model, parts)
    found, kept = {}, 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    for number in range(2):
        torch.manual_seed(number)
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=amp)
        with mixed, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = model(batch([2, 3], seed=number))
        sum(losses.values()).backward()
        found |= {f"{name} {number}": value.detach() for name, value in losses.items()}
    found |= {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | dict(model.named_buffers()), kept


def assert_only_memory_differs(
    make: Callable[[], nn.Module], parts: tuple[str, ...] = PARTS, share: float = 0.5, amp: bool = False
) -> None:
    (expected, all_of_it), (found, rest) = a_step(make, (), amp), a_step(make, parts, amp)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert rest < share * all_of_it


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_the_same_to_the_bit_and_keeps_less(family: str) -> None:
    assert_only_memory_differs(lambda: tiny_model(family=family))


def test_in_mixed_precision() -> None:
    assert_only_memory_differs(tiny_model, amp=True)


def test_what_dropout_leaves_out_is_left_out_again() -> None:
    assert_only_memory_differs(lambda: tiny_model("++model.decoder.layer.dropout=0.3"), ("decoder",), share=0.9)


def test_swin_with_paths_left_out() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build_swin("tiny", drop_path_rate=0.5)

        def forward(self, samples: list[dict]) -> dict[str, Tensor]:
            maps = self.backbone(torch.stack([sample["image"] for sample in samples]) / 255)
            return {name: value.square().mean() for name, value in maps.items()}

    assert_only_memory_differs(Features, ("backbone",))


def test_evaluation_is_as_before() -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        expected = model(batch([1]))[0]["instances"]
        checkpoint_activations(model, PARTS)
        found = model(batch([1]))[0]["instances"]
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.mark.parametrize(
    ("part", "told"),
    [("neck", "the model has no module neck"), ("criterion", r"criterion \(Criterion\) has no supported blocks")],
)
def test_parts_that_cannot_be_computed_again_are_named(part: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        checkpoint_activations(tiny_model(), [part])
