"""Grouped GEMM of a gated expert's first matrix: rows gathered, gate and value, bias, activation.

y [S, I] (sorted; the type of compute rows) = act(gate[e](x), value[e](x)) for the tiles of the tile
map. Row s is row order[s] // divisor of x [., H].  weights [E, 2I, H], bias [E, 2I]: I gates, then
I values.  For INT4 the even columns of x and of y come first.
"""

import triton
import triton.language as tl
from activation import activate_gated
from program_order import tile_of
from stored import INT4, empty_sums, finished, multiply, tile_pointers


@triton.jit
def gemm_gated(
    x,
    weights,
    scales,
    bias,
    order,
    tile_map,
    y,
    columns,
    row_elements,
    features,
    scale_blocks,
    block_size,
    tiles_m,
    divisor,
    activation,
    alpha,
    limit,
    has_bias,
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
    gate_row = tl.minimum(feature, features - 1)
    gates = expert * 2 * features
    values = gates + features

    source = (tl.load(order + row, mask=holds, other=0) // divisor).to(tl.int64)
    HALF: tl.constexpr = 2 if STORED == INT4 else 1
    column = tl.arange(0, BK // HALF)
    x_tile = x + source[:, None] * columns + column[None, :]
    gate_tile = tile_pointers(weights + gates * row_elements, gate_row, row_elements, STORED, BK)
    value_tile = tile_pointers(weights + values * row_elements, gate_row, row_elements, STORED, BK)
    gate_scale = scales + gates * scale_blocks + gate_row * scale_blocks
    value_scale = scales + values * scale_blocks + gate_row * scale_blocks
    gate = empty_sums(LEFT, BM, BN)
    value = empty_sums(LEFT, BM, BN)
    STEP: tl.constexpr = gate_tile.shape[1]
    stored_left = row_elements
    for k in range(0, columns, BK):
        inside = holds[:, None] & (column[None, :] < (columns - k) // HALF)
        rows = tl.load(x_tile, mask=inside, other=0.0)
        rows_odd = rows
        if STORED == INT4:
            rows_odd = tl.load(x_tile + columns // HALF, mask=inside, other=0.0)
        at = k // block_size
        gate = multiply(
            gate, rows, rows_odd, gate_tile, gate_scale + at, stored_left, STORED, BK, LEFT,
            PRECISION,
        )  # fmt: skip
        value = multiply(
            value, rows, rows_odd, value_tile, value_scale + at, stored_left, STORED, BK, LEFT,
            PRECISION,
        )  # fmt: skip
        stored_left -= STEP
        x_tile += BK // HALF
        gate_tile += STEP
        value_tile += STEP
    gate = finished(gate, gate_scale, STORED, LEFT)
    value = finished(value, value_scale, STORED, LEFT)
    if has_bias != 0:
        gate += tl.load(bias + gates + gate_row)[None, :]
        value += tl.load(bias + values + gate_row)[None, :]
    activated = activate_gated(gate, value, activation, alpha, limit).to(y.dtype.element_ty)
    place = y + row.to(tl.int64)[:, None] * features
    if STORED == INT4:
        even, odd = tl.split(activated.reshape(BM, BN // 2, 2))
        half = n * (BN // 2) + tl.arange(0, BN // 2)[None, :]
        in_half = holds[:, None] & (half < features // 2)
        tl.store(place + half, even, mask=in_half)
        tl.store(place + features // 2 + half, odd, mask=in_half)
    else:
        written = holds[:, None] & (feature[None, :] < features)
        tl.store(place + feature[None, :], activated, mask=written)
