"""Normalization and feed-forward network of a decoder layer are parts of the config."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deim.layers import SwiGLU
from deim.modeling.decoder import AddNormDecoderLayer, GatedDecoderLayer


@pytest.mark.parametrize("kind", [AddNormDecoderLayer, GatedDecoderLayer])
def test_norm_and_feedforward_replace_the_defaults(kind: type) -> None:
    """Every LayerNorm becomes a separate RMSNorm, and the last step equals the formulas of both parts."""
    torch.manual_seed(0)
    layer = kind(8, 2, None, [2, 2], norm=nn.RMSNorm(8, eps=1e-6), feedforward=SwiGLU(8, 12)).double()
    norms = [module for module in layer.modules() if isinstance(module, nn.RMSNorm)]
    assert len({id(norm.weight) for norm in norms}) == 3
    assert not any(isinstance(module, nn.LayerNorm) for module in layer.modules())
    queries = torch.randn(2, 3, 8, dtype=torch.float64)
    w1, w2, w3 = layer.feedforward.w1, layer.feedforward.w2, layer.feedforward.w3
    hidden = queries @ w1.weight.T + w1.bias
    expected = queries + F.linear(hidden * hidden.sigmoid() * (queries @ w2.weight.T + w2.bias), w3.weight, w3.bias)
    expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(layer.normalize(queries + layer.feedforward(queries)), expected, atol=1e-12, rtol=0)


def test_default_layer_keeps_its_keys() -> None:
    """The parameters of D-FINE's layer have the names of published checkpoints."""
    layer = GatedDecoderLayer(8, 2, 16, [2, 2])
    names = {name.split(".")[0] for name in layer.state_dict()}
    assert names == {"self_attn", "norm1", "cross_attn", "gateway", "linear1", "linear2", "norm3"}
    assert isinstance(layer.gateway.norm, nn.LayerNorm)


@pytest.mark.parametrize(("width", "feedforward"), [(None, None), (16, SwiGLU(8, 12))])
def test_layer_rejects_no_or_two_feedforward_networks(width: int | None, feedforward: nn.Module | None) -> None:
    with pytest.raises(ValueError, match="exactly one of dim_feedforward and feedforward"):
        GatedDecoderLayer(8, 2, width, [2], feedforward=feedforward)
