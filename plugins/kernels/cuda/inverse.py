"""The inverse of `order`: where each assignment's row is.  Entries outside [0, S) are left out."""

import triton
import triton.language as tl


@triton.jit
def fill(x, count, value, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + at, tl.full([BLOCK], 0, tl.int32) + value, mask=at < count)


@triton.jit
def invert(order, index, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    target = tl.load(order + at, mask=at < count, other=-1)
    tl.store(index + target, at, mask=(target >= 0) & (target < count))
