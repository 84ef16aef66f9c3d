"""Checkpoints of models and backbones, in the layout of this package and of other libraries."""

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.loading import load_for_inference, load_weights, resume
from deim.checkpoint.metadata import CheckpointMetadata
from deim.checkpoint.reading import read_checkpoint, read_weights

__all__ = [
    "CheckpointMetadata",
    "load_backbone_weights",
    "load_for_inference",
    "load_weights",
    "read_checkpoint",
    "read_weights",
    "resume",
]
