"""The parts of a detector, as configs and programs name them."""

from deim.modeling.backbone import HGNetV2, PResNet
from deim.modeling.decoder import (
    AddNormDecoderLayer,
    BoxPosition,
    Decoder,
    DistributionRefinement,
    FixedBoxes,
    GatedDecoderLayer,
    IterativeRefinement,
    MapProjection,
)
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import HybridEncoder
from deim.modeling.losses import Criterion, Supervision
from deim.modeling.matching import HungarianMatcher, MatchingCost
from deim.modeling.queries import ContrastiveDenoising, LearnedQueries, QuerySelection

__all__ = [
    "AddNormDecoderLayer",
    "BoxPosition",
    "ContrastiveDenoising",
    "Criterion",
    "DEIMDetector",
    "Decoder",
    "DistributionRefinement",
    "FixedBoxes",
    "GatedDecoderLayer",
    "HGNetV2",
    "HungarianMatcher",
    "HybridEncoder",
    "IterativeRefinement",
    "LearnedQueries",
    "MapProjection",
    "MatchingCost",
    "PResNet",
    "QuerySelection",
    "Supervision",
]
