"""Union of the matches of all layers (D-FINE, arXiv 2410.13842, section 4.2: GO-LSD)."""

import numpy as np
import torch

from deim.modeling.matching.hungarian import Matches


def union_of_matches(matches: Matches) -> Matches:
    """Return every query that is matched in at least one layer, with its most frequent target.

    Ties are resolved as in the official code, by torch's unstable sort: reproducible for the same matches, but without
    a defined rule. A target may be assigned to several queries.

    Returns:
        pairs of layer 0, in the order of images.
    """
    images, queries, targets = [], [], []
    for image in np.unique(matches.image):
        of_image = matches.image == image
        # Each pair is encoded as one number: np.unique over the columns of two rows takes ten times as long.
        width = matches.target[of_image].max() + 1
        votes, counts = np.unique(matches.query[of_image] * width + matches.target[of_image], return_counts=True)
        order = torch.from_numpy(counts).argsort(descending=True).numpy()
        voted_queries, voted_targets = np.divmod(votes[order], width)
        query, first = np.unique(voted_queries, return_index=True)
        images.append(np.full(len(query), image))
        queries.append(query)
        targets.append(voted_targets[first])
    empty = [np.empty(0, np.int64)]
    image = np.concatenate(images or empty)
    return Matches(np.zeros_like(image), image, np.concatenate(queries or empty), np.concatenate(targets or empty))
