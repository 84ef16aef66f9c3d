"""Inference with trained models."""

from deim.inference.deployment import reparameterized, to_deployment

__all__ = ["reparameterized", "to_deployment"]
