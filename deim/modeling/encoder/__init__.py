"""Encoders between backbone and decoder.

They return either maps, finest first, or a :class:`deim.structures.memory.Memory`.
"""

from deim.modeling.encoder.deformable import DeformableEncoder
from deim.modeling.encoder.hybrid import HybridEncoder
from deim.modeling.encoder.lite import LiteEncoder
from deim.modeling.encoder.transformer import TransformerEncoder

__all__ = ["DeformableEncoder", "HybridEncoder", "LiteEncoder", "TransformerEncoder"]
