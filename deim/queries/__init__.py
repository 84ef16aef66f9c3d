"""Where decoder queries come from."""

from deim.queries.denoising import ContrastiveDenoising, DenoisingQueries
from deim.queries.selection import QuerySelection, SelectedQueries

__all__ = ["ContrastiveDenoising", "DenoisingQueries", "QuerySelection", "SelectedQueries"]
