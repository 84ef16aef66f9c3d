from .config import CfgNode, configurable, get_cfg
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig

__all__ = ["CfgNode", "LazyCall", "LazyConfig", "configurable", "get_cfg", "instantiate"]
