from .lr_scheduler import LRMultiplier, LRScheduler

__all__ = ["LRMultiplier", "LRScheduler"]
