"""Parts of detectors, under the names that configs and programs use."""

from deim.modeling import backbone
from deim.modeling.backbone import *  # noqa: F403 - all backbones, so that a new one is exported in one place
from deim.modeling.decoder import (
    AddNormDecoderLayer,
    AnchorPosition,
    BoxPosition,
    ClampedAddNormDecoderLayer,
    ConditionalDecoderLayer,
    Decoder,
    DistributionRefinement,
    FixedBoxes,
    GatedDecoderLayer,
    InitialBoxPosition,
    IterativeRefinement,
    MapProjection,
    ModulatedAnchorPosition,
    NormalizedRefinement,
)
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import DeformableEncoder, HybridEncoder, LiteEncoder, TransformerEncoder
from deim.modeling.losses import Criterion, DetrexCriterion, Supervision
from deim.modeling.matching import HungarianMatcher, MatchingCost, ScoreIoUCost
from deim.modeling.queries import (
    ContrastiveDenoising,
    LearnedAnchors,
    LearnedPoints,
    LearnedQueries,
    QueryDenoising,
    QuerySelection,
    RegionProposals,
)

__all__ = [
    "AddNormDecoderLayer",
    "AnchorPosition",
    "BoxPosition",
    "ClampedAddNormDecoderLayer",
    "ConditionalDecoderLayer",
    "ContrastiveDenoising",
    "Criterion",
    "DEIMDetector",
    "Decoder",
    "DeformableEncoder",
    "DetrexCriterion",
    "DistributionRefinement",
    "FixedBoxes",
    "GatedDecoderLayer",
    "HungarianMatcher",
    "HybridEncoder",
    "InitialBoxPosition",
    "IterativeRefinement",
    "LearnedAnchors",
    "LearnedPoints",
    "LearnedQueries",
    "LiteEncoder",
    "MapProjection",
    "MatchingCost",
    "ModulatedAnchorPosition",
    "NormalizedRefinement",
    "QueryDenoising",
    "QuerySelection",
    "RegionProposals",
    "ScoreIoUCost",
    "Supervision",
    "TransformerEncoder",
]
__all__ += backbone.__all__
