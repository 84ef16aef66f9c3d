"""Conversion of checkpoints between layouts."""

from deim.conversion.conversion import NATIVE, TARGETS, convert, convert_backbone
from deim.conversion.identification import IdentifiedCheckpoint, identify

__all__ = ["NATIVE", "TARGETS", "IdentifiedCheckpoint", "convert", "convert_backbone", "identify"]
