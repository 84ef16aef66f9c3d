"""Matching of queries and objects."""

from deim.modeling.matching.cost import ClassCost, MatchingCost, PairwiseCost, PredictionCost, ScoreIoUCost
from deim.modeling.matching.hungarian import HungarianMatcher, Matches
from deim.modeling.matching.keypoint_cost import KeypointCost
from deim.modeling.matching.mask_cost import MaskCost
from deim.modeling.matching.union import union_of_matches

__all__ = [
    "ClassCost",
    "HungarianMatcher",
    "KeypointCost",
    "MaskCost",
    "Matches",
    "MatchingCost",
    "PairwiseCost",
    "PredictionCost",
    "ScoreIoUCost",
    "union_of_matches",
]
