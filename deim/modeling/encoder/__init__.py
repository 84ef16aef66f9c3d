"""Encoders between backbone and decoder."""

from deim.modeling.encoder.hybrid import HybridEncoder

__all__ = ["HybridEncoder"]
