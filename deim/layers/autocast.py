"""Mixed precision without the weight cache of autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast_without_cache(device_type: str) -> AbstractContextManager:
    """Return a context with the current autocast settings that neither reads nor fills the cache of cast weights."""
    if not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, torch.get_autocast_dtype(device_type), cache_enabled=False)
