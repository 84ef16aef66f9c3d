"""Masks and keypoints in FiftyOne's format on disk."""

import base64
import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from deim.data.drawing import decode_mask
from deim.structures.skeleton import Skeleton


def box_mask(mask: Any, box: Sequence[float], size: tuple[int, int]) -> dict[str, Any] | None:
    """Return the mask of a label, which covers its box; None for an empty box.

    Args:
        mask: see :func:`deim.data.drawing.decode_mask`.
        box: XYXY in pixels.
        size: (height, width) of the image.
    """
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        return None
    pixels = decode_mask(mask, size)
    rows = _sample(top, bottom, size[0])
    columns = _sample(left, right, size[1])
    stream = io.BytesIO()
    np.save(stream, pixels[np.ix_(rows, columns)])
    return {"$binary": {"base64": base64.b64encode(zlib.compress(stream.getvalue())).decode(), "subType": "00"}}


def _sample(start: float, end: float, limit: int) -> np.ndarray:
    """Return the indices of the pixels at about one pixel's distance from ``start`` to ``end``."""
    count = max(round(end - start), 1)
    positions = start + (np.arange(count) + 0.5) * (end - start) / count
    return np.clip(np.floor(positions), 0, limit - 1).astype(int)


def keypoint_values(keypoints: np.ndarray, size: tuple[int, int], is_detected: bool) -> dict[str, Any]:
    """Return the attributes of a label with the keypoints of an object.

    FiftyOne does not draw points with the coordinates NaN: those that are not labeled.

    Args:
        keypoints: (P, 3) x and y in pixels, and the score of a detection or the visibility of a labeled keypoint.
        size: (height, width) of the image.
        is_detected: whether the third values are scores.
    """
    height, width = size
    points = []
    for x, y, value in keypoints.tolist():
        is_missing = not is_detected and value <= 0
        points.append([_NAN, _NAN] if is_missing else [x / width, y / height])
    return {"points": points} | ({"confidence": keypoints[:, 2].tolist()} if is_detected else {})


def skeleton_document(skeleton: Skeleton) -> dict[str, Any]:
    """Return the document of the skeleton of a dataset."""
    return {
        "_cls": "KeypointSkeleton",
        "labels": list(skeleton.names),
        "edges": [list(connection) for connection in skeleton.connections],
    }


# NaN in the extended JSON of MongoDB.
_NAN = {"$numberDouble": "NaN"}
