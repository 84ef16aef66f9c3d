"""Inference with trained models."""

from deim.inference.deployment import deployment_form, to_deployment

__all__ = ["deployment_form", "to_deployment"]
