"""The union of the matches of all layers (D-FINE, arXiv 2410.13842, section 4.2: GO-LSD)."""

import numpy as np

from deim.matching.hungarian import Matches


def union_of_matches(matches: Matches) -> Matches:
    """Every query that some layer has matched, with the target that most layers give it.

    Ties go to the target of the smaller index. A target may end up with several queries.

    Returns:
        pairs of layer 0, sorted by image and query.
    """
    votes = np.stack([matches.image, matches.query, matches.target])
    pairs, counts = np.unique(votes, axis=1, return_counts=True)
    image, query, target = pairs
    order = np.lexsort((target, -counts, query, image))
    image, query, target = image[order], query[order], target[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (image[1:] != image[:-1]) | (query[1:] != query[:-1])
    return Matches(np.zeros(int(first.sum()), np.int64), image[first], query[first], target[first])
