"""The vision transformer agrees with DINOv3 of Hugging Face ``transformers``."""

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit import modeling_dinov3_vit

from deim.checkpoint.backbone import backbone_weights
from deim.modeling.backbone import VisionTransformer
from tests.models import randomize


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
def test_features_and_gradients_equal_transformers(gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dim, heads, hidden, registers, base = 24, 2, 40, 3, 70.0
    config = DINOv3ViTConfig(
        patch_size=4,
        hidden_size=dim,
        num_attention_heads=heads,
        intermediate_size=hidden,
        num_hidden_layers=3,
        num_register_tokens=registers,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        rope_theta=base,
        layer_norm_eps=1e-4,
        attn_implementation="eager",
    )
    theirs = randomize(DINOv3ViTModel(config), 0.2).eval()
    # transformers computes frequencies and positions in float32.
    theirs.rope_embeddings.inv_freq = base ** -torch.arange(0, 1, 4 * heads / dim)
    centers = modeling_dinov3_vit.get_patches_center_coordinates
    monkeypatch.setattr(
        modeling_dinov3_vit,
        "get_patches_center_coordinates",
        lambda height, width, dtype, device: centers(height, width, dtype=torch.float64, device=device),
    )
    ours = VisionTransformer(
        dim,
        heads,
        hidden,
        [0, 2],
        patch_size=4,
        gated=gated,
        num_registers=registers,
        key_bias=False,
        layer_scale=1.0,
        norm_eps=1e-4,
        final_norm=True,
        rope_base=base,
    ).eval()
    weights = backbone_weights(theirs.state_dict(), "transformers")
    assert weights.pop("embeddings.mask_token") is not None
    ours.load_state_dict(weights)

    images = torch.randn(2, 3, 20, 28)
    expected = theirs(images, output_hidden_states=True)
    features = ours(images)
    patches = [theirs.norm(expected.hidden_states[1]), expected.last_hidden_state]
    for feature, tokens in zip(features.values(), patches, strict=True):
        expected_feature = tokens[:, 1 + registers :].transpose(1, 2).unflatten(-1, (5, 7))
        assert expected_feature.std() > 0.1, "the comparison must not be of constants"
        torch.testing.assert_close(feature, expected_feature, rtol=1e-10, atol=1e-10)

    upstream = torch.randn_like(features["block2"])
    (features["block2"] * upstream).sum().backward()
    (expected.last_hidden_state[:, 1 + registers :].transpose(1, 2).unflatten(-1, (5, 7)) * upstream).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    for name, gradient in backbone_weights(gradients, "transformers").items():
        torch.testing.assert_close(ours.get_parameter(name).grad, gradient, rtol=1e-9, atol=1e-10)
