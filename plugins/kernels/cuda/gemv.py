"""The same matrices for a few tokens: one program for each assignment and block of features.

No dispatch comes before and no tensor core is used: an expert's weights are read once for each of
its assignments, which at a handful of tokens is hardly more than once.  Sums run in float32 lanes
of BK columns and then across them.  An id outside [0, E) writes nothing.
"""

import triton
import triton.language as tl
from activation import activate_gated
from apart import place_of
from stored import INT4, INT8, INT8_ROW, as_rows, high_halves, load_tile, low_halves


@triton.jit
def dot_rows(
    x,
    matrix,
    scales,
    row,
    columns,
    row_elements,
    scale_blocks,
    block_size,
    STORED: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """[BN] float32: rows `row` of a matrix times x [columns], even columns first for INT4."""
    HALF: tl.constexpr = 2 if STORED == INT4 else 1
    STEP: tl.constexpr = BK // HALF
    column = tl.arange(0, STEP)
    tile = matrix + row[:, None] * row_elements + column[None, :]
    acc = tl.zeros([BN, STEP], tl.float32)
    for k in range(0, columns, BK):
        left = (columns - k) // HALF
        at = x + k // HALF + column
        values = tl.load(at, mask=column < left, other=0.0).to(tl.float32)
        weight = load_tile(tile, row_elements - k // HALF, STORED, BK)
        if STORED == INT4:
            odd = tl.load(at + columns // 2, mask=column < left, other=0.0).to(tl.float32)
            part = low_halves(weight).to(tl.float32) * values[None, :]
            high = high_halves(weight).to(tl.float32)
            part = tl.fma(high, odd[None, :].broadcast_to(high.shape), part)
        elif STORED == INT8:
            part = as_rows(weight, values, STORED).to(tl.float32) * values[None, :]
        else:
            part = values[None, :].broadcast_to(weight.shape)
        if STORED > INT8_ROW:
            # One load for 32 columns, the smallest block.
            first = tl.arange(0, BK // 32) * 32
            place = scales + row[:, None] * scale_blocks + ((k + first) // block_size)[None, :]
            scale = tl.load(place, mask=first[None, :] < columns - k, other=0.0).to(tl.float32)
            shape: tl.constexpr = (BN, BK // 32, 32 // HALF)
            factor = scale[:, :, None].broadcast_to(shape).reshape(BN, STEP)
        else:
            factor = as_rows(weight, values, STORED).to(tl.float32)
        acc = tl.fma(part, factor, acc)
        tile += STEP
    total = tl.sum(acc, 1)
    if STORED == INT8_ROW:
        total *= tl.load(scales + row * scale_blocks).to(tl.float32)
    return total


@triton.jit
def gemv_gated(
    x,
    weights,
    scales,
    bias,
    topk_ids,
    y,
    columns,
    row_elements,
    features,
    scale_blocks,
    block_size,
    num_experts,
    divisor,
    activation,
    alpha,
    limit,
    has_bias,
    STORED: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """`y` [S, I] by assignment, of x [., H] at assignment // divisor; as gemm_gated has it."""
    assignment = tl.program_id(0)
    expert = tl.load(topk_ids + assignment)
    if (expert < 0) | (expert >= num_experts):
        return
    feature = tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.minimum(feature, features - 1)
    gates = expert.to(tl.int64) * 2 * features
    values = gates + features
    source = x + (assignment // divisor).to(tl.int64) * columns
    gate = dot_rows(
        source, weights + gates * row_elements, scales + gates * scale_blocks,
        row, columns, row_elements, scale_blocks, block_size, STORED, BN, BK,
    )  # fmt: skip
    value = dot_rows(
        source, weights + values * row_elements, scales + values * scale_blocks,
        row, columns, row_elements, scale_blocks, block_size, STORED, BN, BK,
    )  # fmt: skip
    if has_bias != 0:
        gate += tl.load(bias + gates + row)
        value += tl.load(bias + values + row)
    activated = activate_gated(gate, value, activation, alpha, limit)
    place = y + assignment.to(tl.int64) * features + place_of(feature, features, STORED == INT4)
    tl.store(place, activated.to(y.dtype.element_ty), mask=feature < features)


@triton.jit
def gemv_plain(
    x,
    weights,
    scales,
    bias,
    topk_weights,
    topk_ids,
    y,
    columns,
    row_elements,
    features,
    scale_blocks,
    block_size,
    num_experts,
    divisor,
    has_bias,
    has_weights,
    STORED: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Y [S, N] float32 by assignment: (row + bias) times topk_weights [S], where there are any."""
    assignment = tl.program_id(0)
    expert = tl.load(topk_ids + assignment)
    if (expert < 0) | (expert >= num_experts):
        return
    feature = tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.minimum(feature, features - 1)
    first = expert.to(tl.int64) * features
    source = x + (assignment // divisor).to(tl.int64) * columns
    total = dot_rows(
        source, weights + first * row_elements, scales + first * scale_blocks,
        row, columns, row_elements, scale_blocks, block_size, STORED, BN, BK,
    )  # fmt: skip
    if has_bias != 0:
        total += tl.load(bias + first + row)
    if has_weights != 0:
        total *= tl.load(topk_weights + assignment)
    place = y + assignment.to(tl.int64) * features + feature
    tl.store(place, total, mask=feature < features)
