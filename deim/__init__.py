"""DEIM, D-FINE and their relatives as components for detectron2 and detrex."""

from deim.fallback import install_fallbacks

# Before anything below imports detectron2 or detrex.
install_fallbacks()

__version__ = "0.1.0"
