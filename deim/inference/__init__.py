"""Using a trained model."""

from deim.inference.deployment import reparameterized, to_deployment

__all__ = ["reparameterized", "to_deployment"]
