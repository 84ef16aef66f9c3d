"""Polygons of masks."""

import numpy as np


def mask_to_polygons(mask: np.ndarray) -> list[list[int]]:
    """Return polygons that cover exactly the pixels of a mask.

    Polygons follow the edges of the pixels, so that pixel (0, 0) is the square from (0, 0) to (1, 1). A part with a hole
    is cut at a column through the hole, because a COCO segmentation is the union of its polygons.

    Args:
        mask: (H, W) bool.

    Returns:
        polygons ``[x0, y0, x1, y1, ...]``, at least one for each 4-connected part.
    """
    loops = _boundary_loops(mask)
    hole = next((loop for loop in loops if _signed_area(loop) < 0), None)
    if hole is None:
        return [[int(value) for point in loop for value in point] for loop in loops]
    columns = [x for x, _ in hole]
    cut = (min(columns) + max(columns) + 1) // 2
    left, right = mask.copy(), mask.copy()
    left[:, cut:] = False
    right[:, :cut] = False
    return mask_to_polygons(left) + mask_to_polygons(right)


def _boundary_loops(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Return the corners (x, y) of each boundary, with the mask to the right of the direction of travel."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # For each side of a pixel: whether the neighbor is outside, start and end of the side relative to the pixel.
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbor, (start_x, start_y), (end_x, end_y) in sides:
        rows, columns = np.nonzero(inside & ~neighbor)
        for x, y in zip(columns.tolist(), rows.tolist(), strict=True):
            ends.setdefault((x + start_x, y + start_y), []).append((x + end_x, y + end_y))
    loops = []
    while ends:
        start = point = min(ends, key=lambda corner: (corner[1], corner[0]))  # a corner of its boundary
        loop: list[tuple[int, int]] = []
        direction = (0, 0)
        while not loop or point != start:
            following = _pop_end(ends, point, direction)
            new_direction = (following[0] - point[0], following[1] - point[1])
            if new_direction != direction:
                loop.append(point)
            point, direction = following, new_direction
        loops.append(loop)
    return loops


def _pop_end(
    ends: dict[tuple[int, int], list[tuple[int, int]]], start: tuple[int, int], direction: tuple[int, int]
) -> tuple[int, int]:
    """Remove and return the end of a side that begins at ``start``.

    Where two pixels touch at a corner, the boundary turns right, so that the two pixels are in different parts.
    """
    candidates = ends[start]
    right = (start[0] - direction[1], start[1] + direction[0])
    end = right if right in candidates else candidates[0]
    candidates.remove(end)
    if not candidates:
        del ends[start]
    return end


def _signed_area(loop: list[tuple[int, int]]) -> int:
    """Return the area inside a boundary; negative for the boundary of a hole."""
    following = [*loop[1:], loop[0]]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(loop, following, strict=True)) // 2
