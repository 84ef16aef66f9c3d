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
        votes = np.stack([matches.query[chosen], matches.target[chosen]])
        pairs, counts = np.unique(votes, axis=1, return_counts=True)
        order = torch.from_numpy(counts).argsort(descending=True).numpy()
        query, first = np.unique(pairs[0][order], return_index=True)
        images.append(np.full(len(query), image))
        queries.append(query)
        targets.append(pairs[1][order][first])
    empty = [np.empty(0, np.int64)]
    image = np.concatenate(images or empty)
    return Matches(np.zeros_like(image), image, np.concatenate(queries or empty), np.concatenate(targets or empty))
