"""Mixed precision without what it remembers."""

from contextlib import AbstractContextManager, nullcontext

import torch


def casting_anew(device_type: str) -> AbstractContextManager:
    """Autocast as it is around, whose casts of weights are neither taken from its cache nor left in it."""
    if not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, torch.get_autocast_dtype(device_type), cache_enabled=False)
