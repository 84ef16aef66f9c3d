"""Assignment of queries to objects."""

from deim.matching.cost import MatchingCost
from deim.matching.hungarian import HungarianMatcher, Matches
from deim.matching.union import union_of_matches

__all__ = ["HungarianMatcher", "Matches", "MatchingCost", "union_of_matches"]
