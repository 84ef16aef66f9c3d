"""Where decoder queries come from."""

from deim.modeling.queries.denoising import ContrastiveDenoising, DenoisingQueries
from deim.modeling.queries.initial import InitialQueries, QuerySource
from deim.modeling.queries.learned import LearnedQueries
from deim.modeling.queries.selection import QuerySelection

__all__ = [
    "ContrastiveDenoising",
    "DenoisingQueries",
    "InitialQueries",
    "LearnedQueries",
    "QuerySelection",
    "QuerySource",
]
