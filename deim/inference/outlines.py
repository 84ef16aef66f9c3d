"""Outlines of masks, as one polygon per mask."""

import cv2
import numpy as np

from deim.data.datasets.polygons import mask_to_polygons

# Maximum distance of an outline from the edges of the pixels.
_TOLERANCE = 0.75


def mask_outline(mask: np.ndarray) -> np.ndarray:
    """Return one polygon (K, 2), x and y in pixels, that follows the outline of a mask up to 0.75 pixels.

    The parts of a mask are connected by lines, which have no area, because a line of a YOLO file has only one polygon.

    Args:
        mask: (H, W) bool. An empty mask has an empty outline.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((0, 2))
    top, left = rows[0], columns[0]
    rings = mask_to_polygons(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    simplified = [_simplify(np.reshape(ring, (-1, 2))) for ring in rings]
    outline, *others = sorted(simplified, key=len, reverse=True)
    for ring in others:
        outline = _connect(outline, ring)
    return outline + (left, top)


def _simplify(ring: np.ndarray) -> np.ndarray:
    """Return a ring (K, 2) with fewer corners. A ring that would lose its area is unchanged."""
    corners = cv2.approxPolyDP(ring.astype(np.float32)[:, None], _TOLERANCE, closed=True)[:, 0]
    return corners if len(corners) > 2 else ring.astype(np.float32)


def _connect(outline: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Insert a ring into an outline at their closest corners."""
    distances = np.abs(outline[:, None] - ring).sum(axis=2)
    first, second = np.unravel_index(distances.argmin(), distances.shape)
    return np.concatenate([outline[: first + 1], ring[second:], ring[: second + 1], outline[first:]])
