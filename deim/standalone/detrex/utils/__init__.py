from .events import WandbWriter

__all__ = ["WandbWriter"]
