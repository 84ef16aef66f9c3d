"""Identical and near-duplicate images, found by digests of the files and perceptual hashes of the images.

The perceptual hash is the pHash with 256 bits: the signs, relative to their median, of the low frequencies of the
discrete cosine transform of the gray image. Compression, scaling and changes of brightness alter few bits. Unrelated
images differ in about half of the bits. Mirrored and rotated copies are not found.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from deim.data.image import read_bytes, read_image
from deim.data.records import record_size
from deim.errors import DatasetError

# Maximum number of different bits between the perceptual hashes of near-duplicates.
MAX_DISTANCE = 40

_LOW_FREQUENCIES, _SIDE = 16, 64
_NUM_BITS = _LOW_FREQUENCIES**2
# Rows of the matrix of distances that are computed at once: 200 MB for 100 000 images.
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class Fingerprints:
    """Digests of the files and perceptual hashes of N images.

    Attributes:
        digests: digest of each file; None for an image that cannot be read.
        hashes: (N, 256) bool; False for an image that cannot be read.
    """

    digests: list[bytes | None]
    hashes: np.ndarray

    def readable_indices(self) -> np.ndarray:
        return np.array([i for i, digest in enumerate(self.digests) if digest is not None], dtype=int)


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Return the pHash of an image (H, W, 3) RGB uint8 as (256,) bool."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_LOW_FREQUENCIES, :_LOW_FREQUENCIES]
    return (low > np.median(low)).ravel()


def compute_fingerprints(records: Sequence[dict], threads: int = 4) -> Fingerprints:
    """Return the fingerprints of the images of detectron2 records; images that cannot be read have no digest."""
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(_fingerprint, records)
        computed = list(tqdm(results, "comparing images", total=len(records), delay=2, mininterval=2, unit="image"))
    hashes = np.array([bits for _, bits in computed], dtype=bool).reshape(-1, _NUM_BITS)
    return Fingerprints([digest for digest, _ in computed], hashes)


def _fingerprint(record: dict) -> tuple[bytes | None, np.ndarray]:
    try:
        digest = hashlib.blake2b(read_bytes(record["file_name"]), digest_size=16).digest()
        return digest, perceptual_hash(read_image(record["file_name"], reduction=_reduction(record)))
    except (OSError, DatasetError):
        return None, np.zeros(_NUM_BITS, dtype=bool)


def _reduction(record: dict) -> int:
    """Return the largest reduction of the decoder that leaves at least 128 pixels on the shorter side."""
    shorter_side = min(record_size(record) or (0,))
    return next((reduction for reduction in (8, 4, 2) if shorter_side >= 128 * reduction), 1)


def find_nearest(queries: Fingerprints, references: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """Return the most similar reference of every query.

    Args:
        queries: fingerprints of N images.
        references: fingerprints of M images.

    Returns:
        (N,) indices of references, and (N,) distances in bits: -1 for identical files, and the number of bits plus 1
        for images that cannot be read.
    """
    indices, distances = np.zeros(len(queries.digests), int), np.full(len(queries.digests), _NUM_BITS + 1)
    usable = references.readable_indices()
    if not len(usable):
        return indices, distances
    for rows, block in _distance_blocks(queries, queries.readable_indices(), references, usable):
        nearest = block.argmin(axis=1)
        indices[rows], distances[rows] = usable[nearest], block[np.arange(len(rows)), nearest]
    by_digest = {digest: i for i, digest in reversed(list(enumerate(references.digests))) if digest is not None}
    for number, digest in enumerate(queries.digests):
        if digest is not None and digest in by_digest:
            indices[number], distances[number] = by_digest[digest], -1
    return indices, distances


def group_duplicates(images: Fingerprints, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """Return (N,) the number of the group of each image; near-duplicates, also indirect ones, are in the same group.

    Args:
        images: fingerprints of N images.
        max_distance: number of bits in which near-duplicates may differ; 0 or more.
    """
    count = len(images.digests)
    groups = np.arange(count)
    usable = images.readable_indices()
    for rows, block in _distance_blocks(images, usable, images, usable):
        first, second = np.nonzero(block <= max_distance)
        # Each image is linked with an image of its previous group, so that the groups of earlier blocks are kept.
        representatives = np.unique(groups, return_index=True)[1]
        edges = (
            np.concatenate([rows[first], np.arange(count)]),
            np.concatenate([usable[second], representatives[groups]]),
        )
        graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(count, count))
        groups = connected_components(graph, directed=False)[1]
    return groups


def _distance_blocks(
    first: Fingerprints, rows: np.ndarray, second: Fingerprints, columns: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the numbers of some ``rows`` and their Hamming distances to ``columns`` (rows, columns), block by block."""
    signs = 2 * second.hashes[columns].astype(np.float32) - 1
    for start in range(0, len(rows), _BLOCK_ROWS):
        part = rows[start : start + _BLOCK_ROWS]
        products = (2 * first.hashes[part].astype(np.float32) - 1) @ signs.T
        yield part, (_NUM_BITS - products) / 2
