"""Batch normalization with fixed statistics and affine parameters."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """``(x - running_mean) / sqrt(running_var + eps) * weight + bias``. All four are buffers."""

    _version = 3

    def __init__(self, num_features, eps=1e-5):
        """Create a layer of ``num_features`` channels, initialized to the identity up to ``eps``."""
        super().__init__()
        self.num_features, self.eps = num_features, eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0 - eps)):
            self.register_buffer(name, torch.full((num_features,), value))
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            # F.batch_norm would store tensors for the backward of its affine part and need more memory.
            scale = self.weight * (self.running_var + self.eps).rsqrt()
            shift = self.bias - self.running_mean * scale
            return x * scale.view(1, -1, 1, 1).to(x.dtype) + shift.view(1, -1, 1, 1).to(x.dtype)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if (local_metadata.get("version") or 0) < 2:
            # Version 1 had no statistics.
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def __repr__(self):
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm in a module by a frozen layer with the same values.

        Returns:
            ``module``, modified in place, or its replacement if it is itself such a norm.
        """
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            return cls._from_batch_norm(module)
        for name, child in list(module.named_children()):
            converted = cls.convert_frozen_batchnorm(child)
            if converted is not child:
                module.add_module(name, converted)
        return module

    @classmethod
    def _from_batch_norm(cls, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> "FrozenBatchNorm2d":
        frozen = cls(norm.num_features)
        if norm.affine:
            frozen.weight.data = norm.weight.data.clone()
            frozen.bias.data = norm.bias.data.clone()
        frozen.running_mean.data, frozen.running_var.data = norm.running_mean.data, norm.running_var.data
        frozen.eps, frozen.num_batches_tracked = norm.eps, norm.num_batches_tracked
        return frozen
