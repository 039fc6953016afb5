"""Grouped GEMM of one matrix for each expert: the second of an expert, or its only one.

y [S, N] float32 = weights[e] [N, H] on rows of x [., H], plus bias [E, N], times topk_weights [S].
Sorted row s reads row order[s] // gather of x (gather 0: row s) and is written to order[s] where
`scatter` (else to s).  For INT4 the even columns of x come first.
"""

import triton
import triton.language as tl
from program_order import tile_of
from stored import INT4, empty_sums, finished, multiply, tile_pointers


@triton.jit
def gemm_plain(
    x,
    weights,
    scales,
    bias,
    topk_weights,
    order,
    tile_map,
    y,
    columns,
    row_elements,
    features,
    scale_blocks,
    block_size,
    tiles_m,
    gather,
    scatter,
    has_bias,
    has_weights,
    STORED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP_M: tl.constexpr,
    LEFT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    m, n = tile_of(tl.program_id(0), tiles_m, tl.cdiv(features, BN), GROUP_M)
    expert = tl.load(tile_map + m * 4)
    if expert < 0:
        return
    expert = expert.to(tl.int64)
    row = tl.load(tile_map + m * 4 + 1) + tl.arange(0, BM)
    holds = row < tl.load(tile_map + m * 4 + 2)
    feature = n * BN + tl.arange(0, BN)
    # Features past the end repeat the last one; they are not written.
    matrix_row = tl.minimum(feature, features - 1)
    first = expert * features

    assignment = row
    if (gather != 0) | (scatter != 0):
        assignment = tl.load(order + row, mask=holds, other=0)
    source = row
    if gather != 0:
        source = assignment // gather
    HALF: tl.constexpr = 2 if STORED == INT4 else 1
    column = tl.arange(0, BK // HALF)
    x_tile = x + source.to(tl.int64)[:, None] * columns + column[None, :]
    tile = tile_pointers(weights + first * row_elements, matrix_row, row_elements, STORED, BK)
    scale = scales + first * scale_blocks + matrix_row * scale_blocks
    acc = empty_sums(LEFT, BM, BN)
    STEP: tl.constexpr = tile.shape[1]
    stored_left = row_elements
    for k in range(0, columns, BK):
        inside = holds[:, None] & (column[None, :] < (columns - k) // HALF)
        rows = tl.load(x_tile, mask=inside, other=0.0)
        rows_odd = rows
        if STORED == INT4:
            rows_odd = tl.load(x_tile + columns // HALF, mask=inside, other=0.0)
        acc = multiply(
            acc, rows, rows_odd, tile, scale + k // block_size, stored_left, STORED, BK, LEFT,
            PRECISION,
        )  # fmt: skip
        stored_left -= STEP
        x_tile += BK // HALF
        tile += STEP
    acc = finished(acc, scale, STORED, LEFT)
    if has_bias != 0:
        acc += tl.load(bias + first + matrix_row)[None, :]
    target = row
    if scatter != 0:
        target = assignment
    if has_weights != 0:
        acc *= tl.load(topk_weights + target, mask=holds, other=0.0)[:, None]
    place = y + target.to(tl.int64)[:, None] * features + feature[None, :]
    tl.store(place, acc, mask=holds[:, None] & (feature[None, :] < features))
