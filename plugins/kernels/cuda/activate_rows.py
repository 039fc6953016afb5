"""Activated rows of hidden rows without a gate: float32 in, the type of compute rows out.

Rows of no expert were never written and are left alone: by assignment those whose id lies outside
[0, E) (ids), in sorted order those from offsets[E] on.  Under `apart` the even columns come first.
"""

import triton
import triton.language as tl
from activation import activate_one
from apart import place_of


@triton.jit
def activate_rows(
    hidden, ids, offsets, y, columns, num_experts, activation, by_id, apart, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    if by_id != 0:
        expert = tl.load(ids + program)
        if (expert < 0) | (expert >= num_experts):
            return
    else:
        if program >= tl.load(offsets + num_experts):
            return
    row = program.to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    values = activate_one(tl.load(hidden + row * columns + at, mask=inside, other=0.0), activation)
    place = y + row * columns + place_of(at, columns, apart)
    tl.store(place, values.to(y.dtype.element_ty), mask=inside)
