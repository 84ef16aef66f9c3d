"""Decoders: encoder maps in, groups of :class:`~deim.predictions.Predictions` out."""

from deim.decoder.dfine import DFINEDecoder
from deim.decoder.rtdetr import RTDETRDecoder

__all__ = ["DFINEDecoder", "RTDETRDecoder"]
