"""Rows: tokens in the type that a grouped GEMM multiplies, float32 or bfloat16 (to nearest even).

One program for each row and block of columns.  With `weights`, row r is token r // divisor times
weights[r]: the token of an assignment under weight_on = input.  Under `apart` the even columns
come first.
"""

import triton
import triton.language as tl
from apart import place_of


@triton.jit
def rows(x, weights, y, columns, divisor, has_weights, apart, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    token = (row // divisor).to(tl.int64)
    values = tl.load(x + token * columns + at, mask=inside).to(tl.float32)
    if has_weights != 0:
        values *= tl.load(weights + row)
    place = y + row.to(tl.int64) * columns + place_of(at, columns, apart)
    tl.store(place, values.to(y.dtype.element_ty), mask=inside)
