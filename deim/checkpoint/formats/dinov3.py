"""Renaming rules for weights of DINOv3's vision transformers.

The native names are those of the code of DINOv3 and DEIMv2. Hugging Face ``transformers`` has other names.
"""

from typing import Any

import torch
from torch import Tensor

from deim.checkpoint.renaming import Rule, rename

# Without the buffers that follow from the architecture, and without the mask token, which only pretraining uses.
DINOV3: tuple[Rule, ...] = (
    rename("cls_token", "cls_token"),
    rename("storage_tokens", "storage_tokens"),
    rename("patch_embed.*", "patch_embed.*"),
    *(rename(f"blocks.#.{name}", f"blocks.#.{name}") for name in ("norm#.*", "attn.qkv.weight", "attn.qkv.bias")),
    *(rename(f"blocks.#.{name}", f"blocks.#.{name}") for name in ("attn.proj.*", "ls#.gamma", "mlp.*")),
    rename("norm.*", "norm.*"),
)

# Parts of the feed-forward layer in transformers -> native.
_MLP = {"up_proj": "fc1", "down_proj": "fc2"}
_GATED_MLP = {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"}
# Prefixes of the layers: in the files published for transformers, and in the state dicts of its modules.
_LAYERS = ("layer.#", "model.layer.#")
# (name of the key bias, name of a tensor with its shape). Files of transformers have no key bias; the native key bias
# exists, but is not used: loading fills it with zeros.
KEY_BIASES = tuple((f"{layer}.attention.k_proj.bias", f"{layer}.attention.q_proj.bias") for layer in _LAYERS)


def transformers_dinov3(gated: bool) -> tuple[Rule, ...]:
    """Return the rules of the names of Hugging Face ``transformers``; ``gated`` selects the feed-forward layer."""
    mlp = _GATED_MLP if gated else _MLP
    rules = [
        rename("embeddings.cls_token", "cls_token"),
        rename("embeddings.register_tokens", "storage_tokens"),
        rename("embeddings.patch_embeddings.*", "patch_embed.proj.*"),
        rename("norm.*", "norm.*"),
    ]
    for layer in _LAYERS:
        for kind in ("weight", "bias"):
            parts = tuple(f"{layer}.attention.{part}_proj.{kind}" for part in "qkv")
            rules.append(Rule(parts, (f"blocks.#.attn.qkv.{kind}",)))
        rules += [
            rename(f"{layer}.norm#.*", "blocks.#.norm#.*"),
            rename(f"{layer}.attention.o_proj.*", "blocks.#.attn.proj.*"),
            rename(f"{layer}.layer_scale#.lambda1", "blocks.#.ls#.gamma"),
            *(rename(f"{layer}.mlp.{external}.*", f"blocks.#.mlp.{native}.*") for external, native in mlp.items()),
        ]
    return tuple(rules)


# Templates of the names that :func:`constants` returns.
CONSTANTS = ("rope_embed.periods", "blocks.#.attn.qkv.bias_mask")


def constants(vit: Any) -> dict[str, Tensor]:
    """Return the buffers that DINOv3's and DEIMv2's code stores beside the weights, under their names.

    Args:
        vit: a :class:`deim.modeling.backbone.VisionTransformer`.
    """
    steps = torch.arange(vit.head_dim // 4, dtype=torch.float32) * 2 / (vit.head_dim // 2)
    buffers = {"rope_embed.periods": vit.rope_base**steps}
    for index, block in enumerate(vit.blocks):
        if not block.attn.qkv.key_bias:
            used = torch.ones(3, vit.dim)
            used[1] = 0.0
            buffers[f"blocks.{index}.attn.qkv.bias_mask"] = used.flatten()
    return buffers


def unused(vit: Any) -> dict[str, Tensor]:
    """Return the tensors that files store and that a detector does not use, with zeros in place of trained values."""
    return {"mask_token": torch.zeros(1, vit.dim)} if vit.storage_tokens is not None else {}
