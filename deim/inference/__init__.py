"""Using a trained model."""

from deim.inference.deployment import to_deployment

__all__ = ["to_deployment"]
