"""Kernels of :mod:`deim.layers.ops.triton_backend`; importing this module requires Triton.

A program computes one head for a block of queries: rows are queries, columns are channels. A single loop covers the
points of all levels, with a table of their maps, so that the number of points may differ between levels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

# Queries and warps per program. Small programs were fastest on an H200, for the shapes of training and of encoders.
BLOCK, WARPS = 8, 1


def launch(
    kernel: Callable, value: Tensor, locations: Tensor, weights: Tensor, levels: Tensor, others: Sequence[Tensor]
) -> None:
    """Run a kernel for all images, heads and queries; ``others`` are further dense tensors, including the outputs."""
    batch, tokens, heads, dim = value.shape
    queries = locations.shape[1]
    if batch == 0 or queries == 0:
        return
    grid = (triton.cdiv(queries, BLOCK), heads, batch)
    inputs: list[Any] = [value.contiguous(), locations.contiguous(), weights.contiguous(), levels, *others]
    sizes = {"HEADS": heads, "DIM": dim, "POINTS": levels.shape[0]}
    columns = triton.next_power_of_2(dim)
    kernel[grid](*inputs, tokens, queries, **sizes, BLOCK=BLOCK, COLUMNS=columns, num_warps=WARPS)  # type: ignore[index]


@triton.jit
def _block(tokens, queries, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the mask of valid queries, the channels and their mask, the flat (image, query, head) index, and the
    offset of the channels of the image's first token."""
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, COLUMNS)
    index = (image * queries + query) * HEADS + head
    return query < queries, channel, channel < DIM, index, (image * tokens * HEADS + head) * DIM + channel


@triton.jit
def _sample_position(locations, levels, index, exists, point, POINTS: tl.constexpr):
    """Return the size and first token of a point's map, and the position of the point in it, in pixels."""
    height = tl.load(levels + 3 * point)
    width = tl.load(levels + 3 * point + 1)
    start = tl.load(levels + 3 * point + 2)
    place = locations + (index * POINTS + point) * 2
    x = tl.load(place, mask=exists, other=0.0).to(tl.float32) * width - 0.5
    y = tl.load(place + 1, mask=exists, other=0.0).to(tl.float32) * height - 0.5
    return height, width, start, x, y


@triton.jit
def _pixel(x, y, height, width, start, exists, RIGHT: tl.constexpr, LOWER: tl.constexpr):
    """Return the token of one of the four pixels around a position, whether it is in the map, and its x, y weights."""
    left, upper = tl.floor(x), tl.floor(y)
    column, line = left + RIGHT, upper + LOWER
    inside = exists & (column >= 0) & (column < width) & (line >= 0) & (line < height)
    token = start + tl.where(inside, line, 0.0).to(tl.int32) * width + tl.where(inside, column, 0.0).to(tl.int32)
    share_x = x - left if RIGHT else 1.0 - (x - left)
    share_y = y - upper if LOWER else 1.0 - (y - upper)
    return token, inside, share_x, share_y


@triton.jit
def forward(
    value,
    locations,
    weights,
    levels,
    out,
    tokens,
    queries,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute weighted sums of bilinear samples."""
    exists, channel, used, index, offset = _block(tokens, queries, HEADS, DIM, BLOCK, COLUMNS)
    total = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for point in range(POINTS):
        height, width, start, x, y = _sample_position(locations, levels, index, exists, point, POINTS)
        weight = tl.load(weights + index * POINTS + point, mask=exists, other=0.0).to(tl.float32)
        for corner in tl.static_range(4):
            token, inside, share_x, share_y = _pixel(x, y, height, width, start, exists, corner % 2, corner // 2)
            place = offset[None, :] + (token.to(tl.int64) * HEADS * DIM)[:, None]
            row = tl.load(value + place, mask=inside[:, None] & used[None, :], other=0.0).to(tl.float32)
            total += (weight * share_x * share_y)[:, None] * row
    tl.store(out + index[:, None] * DIM + channel[None, :], total, mask=exists[:, None] & used[None, :])


@triton.jit
def backward(
    value,
    locations,
    weights,
    levels,
    grad,
    grad_value,
    grad_locations,
    grad_weights,
    tokens,
    queries,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the gradients of all three inputs; ``grad_value`` must be float32 zeros and is accumulated."""
    exists, channel, used, index, offset = _block(tokens, queries, HEADS, DIM, BLOCK, COLUMNS)
    grad_output = tl.load(
        grad + index[:, None] * DIM + channel[None, :], mask=exists[:, None] & used[None, :], other=0.0
    )
    grad_output = grad_output.to(tl.float32)
    for point in range(POINTS):
        height, width, start, x, y = _sample_position(locations, levels, index, exists, point, POINTS)
        weight = tl.load(weights + index * POINTS + point, mask=exists, other=0.0).to(tl.float32)
        along_x = tl.zeros([BLOCK], tl.float32)
        along_y = tl.zeros([BLOCK], tl.float32)
        sampled = tl.zeros([BLOCK], tl.float32)
        for corner in tl.static_range(4):
            token, inside, share_x, share_y = _pixel(x, y, height, width, start, exists, corner % 2, corner // 2)
            place = offset[None, :] + (token.to(tl.int64) * HEADS * DIM)[:, None]
            both = inside[:, None] & used[None, :]
            row = tl.load(value + place, mask=both, other=0.0).to(tl.float32)
            tl.atomic_add(
                grad_value + place, (weight * share_x * share_y)[:, None] * grad_output, mask=both, sem="relaxed"
            )
            product = tl.sum(grad_output * row, axis=1)
            sampled += share_x * share_y * product
            along_x += (2 * (corner % 2) - 1) * share_y * product
            along_y += (2 * (corner // 2) - 1) * share_x * product
        tl.store(grad_weights + index * POINTS + point, sampled, mask=exists)
        target = grad_locations + (index * POINTS + point) * 2
        tl.store(target, weight * along_x * width, mask=exists)
        tl.store(target + 1, weight * along_y * height, mask=exists)
