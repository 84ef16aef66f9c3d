"""The Swin Transformer, bundled or detectron2's, agrees with that of Hugging Face ``transformers``."""

import pytest
import torch
from transformers import SwinBackbone, SwinConfig

from deim.modeling.backbone import build_swin
from tests.models import randomize
from tests.parity.transformers_weights import translated

RENAMINGS = [
    (r"^model\.swin\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^model\.swin\.embeddings\.norm\.", "patch_embed.norm."),
    (r"^model\.swin\.encoder\.", ""),
    (r"\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1_proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^model\.hidden_states_norms\.stage2\.", "norm1."),
    (r"^model\.hidden_states_norms\.stage3\.", "norm2."),
    (r"^model\.hidden_states_norms\.stage4\.", "norm3."),
]


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (70, 90)], ids=str)
def test_features_equal_transformers(size: tuple[int, int]) -> None:
    """Includes image sizes that are not multiples of the window and patch sizes."""
    torch.manual_seed(0)
    theirs = SwinBackbone(SwinConfig(depths=[2, 2, 6, 2], out_features=["stage2", "stage3", "stage4"]))
    theirs = randomize(theirs, 0.02).eval()
    ours = build_swin("tiny", drop_path_rate=0.0).eval()
    # `translated` expects the prefix "model." and joins query, key and value as torch's attention does
    weights = translated({f"model.{name}": value for name, value in theirs.state_dict().items()}, RENAMINGS)
    weights = {name.replace(".attn.in_proj_", ".attn.qkv."): value for name, value in weights.items()}
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert [name for name in missing if "relative_position_index" not in name] == []
    assert unexpected == ["model.swin.layernorm.weight", "model.swin.layernorm.bias"], (
        "the final norm is not part of a feature"
    )
    images = torch.randn(2, 3, *size)
    expected, actual = theirs(images).feature_maps, ours(images)
    assert list(actual) == ["p1", "p2", "p3"]
    for name, feature in zip(actual, expected, strict=True):
        assert feature.std() > 0.1, "the comparison must not be of constants"
        torch.testing.assert_close(actual[name], feature, rtol=1e-6, atol=1e-6)
