"""Stored weights: how a tile of a matrix meets rows.

FLOATS and INT8_ROW are multiplied as they are (an int8 is exact in bfloat16), the latter scaled
once at the end.  INT8 and INT4 have a scale for each block of columns: a dot of at most one block
gives float32 sums, and those are scaled.  No integer is ever dequantised to bfloat16, which would
lose bits.
"""

import triton
import triton.language as tl

FLOATS = tl.constexpr(0)
INT8_ROW = tl.constexpr(1)
INT8 = tl.constexpr(2)
INT4 = tl.constexpr(3)


@triton.jit
def tile_pointers(matrix, row, row_elements, STORED: tl.constexpr, BK: tl.constexpr):
    """Places of a tile's first BK columns, [BN, stored elements], for rows `row`."""
    column = tl.arange(0, BK // 2) if STORED == INT4 else tl.arange(0, BK)
    return matrix + row[:, None] * row_elements + column[None, :]


@triton.jit
def load_tile(tile, left, STORED: tl.constexpr, BK: tl.constexpr):
    """[BN, BK] of a tile, 0 behind the `left` stored elements, which INT4 has two columns in."""
    if STORED == INT4:
        packed = tl.load(tile, mask=tl.arange(0, BK // 2)[None, :] < left, other=0)
        # The low half, then the high one, both with their sign.
        weight = tl.interleave((packed << 4) >> 4, packed >> 4)
    else:
        weight = tl.load(tile, mask=tl.arange(0, BK)[None, :] < left, other=0)
    return weight


@triton.jit
def multiply(
    acc, x, tile, scale, left, STORED: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr
):
    """`acc` [BM, BN] plus x [BM, BK] times a tile with `left` stored elements left in its rows."""
    weight = load_tile(tile, left, STORED, BK).to(x.dtype).T
    if STORED > INT8_ROW:
        part = tl.dot(x, weight, input_precision=PRECISION)
        acc = tl.fma(part, (tl.load(scale).to(tl.float32)[None, :]).broadcast_to(acc.shape), acc)
    else:
        acc = tl.dot(x, weight, acc, input_precision=PRECISION)
    return acc
