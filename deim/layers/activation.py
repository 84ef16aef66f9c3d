"""Activation functions by name."""

from torch import nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "prelu": nn.PReLU,
}


def build_activation(name: str | None) -> nn.Module:
    """Return the activation module with the given name; the identity for None.

    Raises:
        ValueError: if the name is unknown.
    """
    if name is None:
        return nn.Identity()
    if name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; choose one of {', '.join(_ACTIVATIONS)}")
    return nn.ReLU(inplace=True) if name == "relu" else _ACTIVATIONS[name]()


def in_place(activation: nn.Module) -> nn.Module:
    """Return an in-place version of an activation if there is one; ReLU is always built in place."""
    return nn.SiLU(inplace=True) if isinstance(activation, nn.SiLU) else activation
