"""Activation functions by name."""

from torch import nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "prelu": nn.PReLU,
}


def build_activation(name: str | None) -> nn.Module:
    """The activation called ``name``; None gives the identity.

    Raises:
        ValueError: the name is unknown.
    """
    if name is None:
        return nn.Identity()
    if name not in _ACTIVATIONS:
        raise ValueError(f"Unknown activation {name!r}; choose one of {', '.join(_ACTIVATIONS)}")
    return nn.ReLU(inplace=True) if name == "relu" else _ACTIVATIONS[name]()


def in_place(activation: nn.Module) -> nn.Module:
    """The same activation, which overwrites its input where it can; ReLU does so in training already."""
    return nn.SiLU(inplace=True) if isinstance(activation, nn.SiLU) else activation
