"""Parts of detectors, under the names that configs and programs use."""

from deim.modeling.backbone import (
    HGNetV2,
    PResNet,
    SpatialTuningAdapter,
    VisionTransformer,
    build_resnet,
    build_swin,
    build_timm,
    build_vit,
)
from deim.modeling.decoder import (
    AddNormDecoderLayer,
    AnchorPosition,
    BoxPosition,
    ConditionalDecoderLayer,
    Decoder,
    DistributionRefinement,
    FixedBoxes,
    GatedDecoderLayer,
    IterativeRefinement,
    MapProjection,
    ModulatedAnchorPosition,
    NormalizedRefinement,
)
from deim.modeling.detector import DEIMDetector
from deim.modeling.encoder import DeformableEncoder, HybridEncoder, LiteEncoder, TransformerEncoder
from deim.modeling.losses import Criterion, DetrexCriterion, Supervision
from deim.modeling.matching import HungarianMatcher, MatchingCost
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
    "HGNetV2",
    "HungarianMatcher",
    "HybridEncoder",
    "IterativeRefinement",
    "LearnedAnchors",
    "LearnedPoints",
    "LearnedQueries",
    "LiteEncoder",
    "MapProjection",
    "MatchingCost",
    "ModulatedAnchorPosition",
    "NormalizedRefinement",
    "PResNet",
    "QueryDenoising",
    "QuerySelection",
    "RegionProposals",
    "SpatialTuningAdapter",
    "Supervision",
    "TransformerEncoder",
    "VisionTransformer",
    "build_resnet",
    "build_swin",
    "build_timm",
    "build_vit",
]
