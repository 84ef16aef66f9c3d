"""Reading checkpoints: of whole models, and of backbones."""

from deim.checkpoint.backbone import load_backbone_weights
from deim.checkpoint.loading import load_weights, read_checkpoint, resume

__all__ = ["load_backbone_weights", "load_weights", "read_checkpoint", "resume"]
