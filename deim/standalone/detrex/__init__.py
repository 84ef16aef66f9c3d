"""The part of detrex's public API that ``deim`` uses, for machines without detrex.

Found on ``sys.path`` only when the real package is not (see :mod:`deim.fallback`).
"""

__version__ = "0.5+deim.standalone"
