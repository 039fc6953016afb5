"""Which tile a program of a grouped GEMM computes."""

import triton
import triton.language as tl


@triton.jit
def tile_of(program, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """(m, n) in bands of GROUP_M tiles of rows: neighbours in time share weights in L2."""
    in_band = GROUP_M * tiles_n
    first_m = program // in_band * GROUP_M
    height = tl.minimum(tiles_m - first_m, GROUP_M)
    m = first_m + program % in_band % height
    n = program % in_band // height
    return m, n
