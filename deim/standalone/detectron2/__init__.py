"""Subset of detectron2's public API that ``deim`` uses, for machines without detectron2.

It is used only if the real package is not installed (see :mod:`deim.fallback`). Module paths, names, signatures, log
formats and checkpoint layout match detectron2 0.6, so that a run started with one can be resumed with the other.
"""

__version__ = "0.6+deim.standalone"
