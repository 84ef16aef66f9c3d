"""Checkpoints from one layout into another."""

from deim.conversion.conversion import NATIVE, TARGETS, convert, convert_backbone
from deim.conversion.identification import Identified, identify

__all__ = ["NATIVE", "TARGETS", "Identified", "convert", "convert_backbone", "identify"]
