"""Subset of detrex's public API that ``deim`` uses, for machines without detrex.

It is used only if the real package is not installed (see :mod:`deim.fallback`).
"""

__version__ = "0.5+deim.standalone"
