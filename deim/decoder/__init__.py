"""Decoders: encoder maps in, groups of :class:`~deim.predictions.Predictions` out."""

from deim.decoder.dfine import DFINEDecoder

__all__ = ["DFINEDecoder"]
