"""Matching of queries and objects."""

from deim.modeling.matching.cost import MatchingCost, PairwiseCost, ScoreIoUCost
from deim.modeling.matching.hungarian import HungarianMatcher, Matches
from deim.modeling.matching.union import union_of_matches

__all__ = ["HungarianMatcher", "Matches", "MatchingCost", "PairwiseCost", "ScoreIoUCost", "union_of_matches"]
