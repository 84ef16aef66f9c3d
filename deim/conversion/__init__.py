"""Conversion of checkpoints between layouts."""

from deim.conversion.conversion import NATIVE, TARGETS, convert, convert_backbone
from deim.conversion.identification import Identified, identify

__all__ = ["NATIVE", "TARGETS", "Identified", "convert", "convert_backbone", "identify"]
