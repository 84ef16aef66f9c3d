"""The union of the matches of all layers (D-FINE, arXiv 2410.13842, section 4.2: GO-LSD)."""

import numpy as np
import torch

from deim.modeling.matching.hungarian import Matches


def union_of_matches(matches: Matches) -> Matches:
    """Every query that some layer has matched, with the target that most layers give it.

    Ties are decided as in the official code, by torch's sort, which is not stable: for the same
    matches always alike, but by no rule. A target may end up with several queries.

    Returns:
        pairs of layer 0, in the order of images.
    """
    images, queries, targets = [], [], []
    for image in np.unique(matches.image):
        chosen = matches.image == image
        # a pair as one number: NumPy takes ten times as long for the unique columns of two rows
        width = matches.target[chosen].max() + 1
        votes, counts = np.unique(matches.query[chosen] * width + matches.target[chosen], return_counts=True)
        order = torch.from_numpy(counts).argsort(descending=True).numpy()
        voted_queries, voted_targets = np.divmod(votes[order], width)
        query, first = np.unique(voted_queries, return_index=True)
        images.append(np.full(len(query), image))
        queries.append(query)
        targets.append(voted_targets[first])
    empty = [np.empty(0, np.int64)]
    image = np.concatenate(images or empty)
    return Matches(np.zeros_like(image), image, np.concatenate(queries or empty), np.concatenate(targets or empty))
