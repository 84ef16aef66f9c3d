"""Encoders between backbone and decoder."""

from deim.encoder.hybrid import HybridEncoder

__all__ = ["HybridEncoder"]
