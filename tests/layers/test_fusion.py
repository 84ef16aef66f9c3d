"""The encoder's fusion blocks convolve before upsampling and give the same results as after upsampling."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim.layers import CSPRepLayer, RepELAN
from tests.models import randomize

BLOCKS = {
    "csp": lambda: CSPRepLayer(8, 6, 1),
    "elan": lambda: RepELAN(8, 6, 4, 3, 1),
}


def results(block: nn.Module, maps: tuple[Tensor, ...], *inputs: Tensor) -> list[Tensor]:
    """Return the output of a block, the gradients of its inputs and parameters, and its running statistics."""
    out = block(*inputs)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    gradients = torch.autograd.grad(out, (*maps, *block.parameters()), upstream)
    return [out, *gradients, *(buffer.clone() for buffer in block.buffers())]


@pytest.mark.parametrize("deployed", [False, True], ids=["training", "deployed"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_convolution_before_upsampling_equals_convolution_after(kind: str, deployed: bool) -> None:
    torch.manual_seed(0)
    block = randomize(BLOCKS[kind]().double(), 0.5).train(not deployed)
    if deployed:
        for part in reversed(list(block.modules())):
            getattr(part, "reparameterize", lambda: None)()
    fine = torch.randn(2, 5, 6, 4, dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    whole = torch.cat([F.interpolate(coarse, scale_factor=2.0, mode="nearest"), fine], dim=1)
    expected = results(copy.deepcopy(block), (fine, coarse), whole)
    for actual, expected_value in zip(results(block, (fine, coarse), fine, coarse), expected, strict=True):
        torch.testing.assert_close(actual, expected_value)
