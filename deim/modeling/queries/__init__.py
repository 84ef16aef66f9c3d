"""Sources of decoder queries."""

from deim.modeling.queries.denoising import (
    ContrastiveDenoising,
    Denoising,
    DenoisingGroups,
    DenoisingQueries,
    QueryDenoising,
)
from deim.modeling.queries.initial import InitialQueries, QuerySource
from deim.modeling.queries.learned import LearnedAnchors, LearnedPoints, LearnedQueries
from deim.modeling.queries.pose import PoseDenoising, PoseSelection
from deim.modeling.queries.proposals import RegionProposals
from deim.modeling.queries.selection import QuerySelection

__all__ = [
    "ContrastiveDenoising",
    "Denoising",
    "DenoisingGroups",
    "DenoisingQueries",
    "InitialQueries",
    "LearnedAnchors",
    "LearnedPoints",
    "LearnedQueries",
    "PoseDenoising",
    "PoseSelection",
    "QueryDenoising",
    "QuerySelection",
    "QuerySource",
    "RegionProposals",
]
