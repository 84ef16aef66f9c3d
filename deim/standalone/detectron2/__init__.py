"""The part of detectron2's public API that ``deim`` uses, for machines without detectron2.

Found on ``sys.path`` only when the real package is not (see :mod:`deim.fallback`). Module paths, names,
signatures, log formats and checkpoint layout are those of detectron2 0.6, so that a run started
with one continues with the other.
"""

__version__ = "0.6+deim.standalone"
