"""Rows with their even columns first and then their odd ones: what int4 is multiplied with."""

import triton
import triton.language as tl


@triton.jit
def place_of(column, columns, apart):
    """Where a row of `columns`, an even number under `apart`, has a column."""
    return tl.where(apart != 0, column % 2 * (columns // 2) + column // 2, column)
