"""Combine: the K rows of a token summed in order of k, in float32 from 0.

One program for each token and block of columns.  Row t*K + k is left out where its id lies outside
[0, E) (ids), where it belongs to no expert (offsets [E+1]), or where its place lies outside
(index). What is left out is not read: there is no 0 * NaN.
"""

import triton
import triton.language as tl


@triton.jit
def combine(
    rows,
    index,
    weights,
    ids,
    offsets,
    y,
    top_k,
    columns,
    num_experts,
    num_rows,
    has_index,
    has_weights,
    has_ids,
    has_offsets,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    total = tl.full([BLOCK], 0.0, tl.float32)
    for k in range(top_k):
        assignment = token * top_k + k
        source = assignment
        if has_index != 0:
            source = tl.load(index + assignment)
        lives = inside & (source >= 0) & (source < num_rows)
        if has_ids != 0:
            expert = tl.load(ids + assignment)
            lives = lives & (expert >= 0) & (expert < num_experts)
        if has_offsets != 0:
            lives = lives & (source >= tl.load(offsets)) & (source < tl.load(offsets + num_experts))
        place = rows + source.to(tl.int64) * columns + at
        values = tl.load(place, mask=lives, other=0.0).to(tl.float32)
        if has_weights != 0:
            values *= tl.load(weights + assignment)
        total += values
    y_place = y + token.to(tl.int64) * columns + at
    tl.store(y_place, total.to(y.dtype.element_ty), mask=inside)
