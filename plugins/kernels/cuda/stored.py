"""Stored weights: how a tile of a matrix meets rows.

FLOATS and INT8_ROW are multiplied as they are (an int8 is exact in bfloat16), the latter scaled
once at the end.  INT8 and INT4 have a scale for each block of columns: a dot of at most one block
gives float32 sums, and those are scaled.  No integer is ever dequantised to bfloat16, which would
lose bits.

Two int4 columns share a byte, and are never put side by side again: the low halves meet a row's
even columns and the high halves its odd ones, which rows for int4 hold apart (rows.py).  Under LEFT
the matrix is the left side of a product, whose sums then stand transposed, [BN, BM]: tensor cores
of SM 9.0 take that side from registers, where integers become bfloat16.
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


# Bytes become bfloat16 four at a time, without the slow conversions of integers.  Behind 0x43 a
# number of up to 7 bits is the bfloat16 of 128 and itself, and what is too much is taken off again;
# both steps are exact.  An int4 is 8 too large when its sign is turned over.  An int8 has its sign
# left out of the one and put into the other: 128 and the low bits, less 128 or 256.
INT8_TO_BF16 = tl.constexpr("""
{
    .reg .b32 word, low, high, one;
    mov.b32 one, 0x3f803f80;
    prmt.b32 word, $2, 0x43434343, 0x4140;
    and.b32 low, word, 0xff7fff7f;
    lop3.b32 high, word, 0xff80ff80, 0x80008000, 0xea;
    fma.rn.bf16x2 $0, low, one, high;
    prmt.b32 word, $2, 0x43434343, 0x4342;
    and.b32 low, word, 0xff7fff7f;
    lop3.b32 high, word, 0xff80ff80, 0x80008000, 0xea;
    fma.rn.bf16x2 $1, low, one, high;
}
""")
LOW_INT4_TO_BF16 = tl.constexpr("""
{
    .reg .b32 word, four, one, excess;
    mov.b32 one, 0x3f803f80;
    mov.b32 excess, 0xc308c308;
    lop3.b32 four, $2, 0x0f0f0f0f, 0x08080808, 0x6a;
    prmt.b32 word, four, 0x43434343, 0x4140;
    fma.rn.bf16x2 $0, word, one, excess;
    prmt.b32 word, four, 0x43434343, 0x4342;
    fma.rn.bf16x2 $1, word, one, excess;
}
""")
HIGH_INT4_TO_BF16 = tl.constexpr("""
{
    .reg .b32 word, four, one, excess;
    mov.b32 one, 0x3f803f80;
    mov.b32 excess, 0xc308c308;
    shr.b32 four, $2, 4;
    lop3.b32 four, four, 0x0f0f0f0f, 0x08080808, 0x6a;
    prmt.b32 word, four, 0x43434343, 0x4140;
    fma.rn.bf16x2 $0, word, one, excess;
    prmt.b32 word, four, 0x43434343, 0x4342;
    fma.rn.bf16x2 $1, word, one, excess;
}
""")


@triton.jit
def low_halves(packed):
    """The even columns of int4 bytes, as bfloat16."""
    return in_fours(packed, LOW_INT4_TO_BF16)


@triton.jit
def high_halves(packed):
    """The odd columns of int4 bytes, as bfloat16."""
    return in_fours(packed, HIGH_INT4_TO_BF16)


@triton.jit
def in_fours(bytes_, ASSEMBLY: tl.constexpr):
    return tl.inline_asm_elementwise(
        ASSEMBLY, "=r,=r,r", [bytes_], dtype=tl.bfloat16, is_pure=True, pack=4
    )


@triton.jit
def as_rows(weight, x, STORED: tl.constexpr):
    """A tile of whole elements in the type of x."""
    return weight.to(x.dtype) if STORED == FLOATS else in_fours(weight, INT8_TO_BF16)


@triton.jit
def load_tile(tile, left, STORED: tl.constexpr, BK: tl.constexpr):
    """A tile as it is stored, 0 behind the `left` stored elements."""
    STEP: tl.constexpr = BK // 2 if STORED == INT4 else BK
    return tl.load(tile, mask=tl.arange(0, STEP)[None, :] < left, other=0)


@triton.jit
def empty_sums(LEFT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Sums of nothing, as `multiply` adds to them."""
    return tl.zeros([BN, BM] if LEFT else [BM, BN], tl.float32)


@triton.jit
def product(weight, x, acc, LEFT: tl.constexpr, PRECISION: tl.constexpr):
    """`acc` plus rows x [BM, K] times the rows of weight [BN, K]."""
    if LEFT:
        acc = tl.dot(weight, x.T, acc, input_precision=PRECISION)
    else:
        acc = tl.dot(x, weight.T, acc, input_precision=PRECISION)
    return acc


@triton.jit
def of_features(factor, acc, LEFT: tl.constexpr):
    """`factor` [BN] for each sum of `acc`."""
    return (factor[:, None] if LEFT else factor[None, :]).broadcast_to(acc.shape)


@triton.jit
def multiply(
    acc, x, x_odd, tile, scale, left, STORED: tl.constexpr, BK: tl.constexpr, LEFT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`acc` plus x [BM, BK] times a tile with `left` stored elements left in its rows.

    For INT4 x are the even columns, [BM, BK // 2], and x_odd the odd ones.
    """
    weight = load_tile(tile, left, STORED, BK)
    if STORED <= INT8_ROW:
        acc = product(as_rows(weight, x, STORED), x, acc, LEFT, PRECISION)
    else:
        part = tl.zeros_like(acc)
        if STORED == INT4:
            part = product(low_halves(weight), x, part, LEFT, PRECISION)
            part = product(high_halves(weight), x_odd, part, LEFT, PRECISION)
        else:
            part = product(as_rows(weight, x, STORED), x, part, LEFT, PRECISION)
        acc = tl.fma(part, of_features(tl.load(scale).to(tl.float32), acc, LEFT), acc)
    return acc


@triton.jit
def finished(acc, scale, STORED: tl.constexpr, LEFT: tl.constexpr):
    """Sums as [BM, BN], with the scale of whole rows."""
    if STORED == INT8_ROW:
        acc *= of_features(tl.load(scale).to(tl.float32), acc, LEFT)
    return acc.T if LEFT else acc
