"""Exponential and sigmoid to 4 eps over all of float32, which `ex2(x * log2 e)` is not.

The product's rounding costs |x| eps: a sigmoid at -80 would be off by 80.  Splitting x = n ln 2 + r
with |r| <= 0.35 keeps the argument of ex2 small.
"""

import triton
import triton.language as tl


@triton.jit
def exp(x):
    """e^x of float32: inf above 88.8, 0 or subnormal below -87.4, NaN for NaN."""
    bounded = tl.where(x > 89.0, 89.0, tl.where(x < -104.0, -104.0, x))
    # Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    shifted = bounded * 1.4426950408889634 + 12582912.0
    n = shifted - 12582912.0
    # ln 2 in two parts; the first has 9 bits, so n times it is exact.
    rest = tl.fma(n, -0.693359375, bounded)
    rest = tl.fma(n, 2.12194440e-4, rest)
    whole = shifted.to(tl.int32, bitcast=True) - 0x4B400000
    half = whole >> 1
    low = ((half + 127) << 23).to(tl.float32, bitcast=True)
    high = ((whole - half + 127) << 23).to(tl.float32, bitcast=True)
    return tl.exp2(rest * 1.4426950408889634) * low * high


@triton.jit
def sigmoid(x):
    return tl.div_rn(tl.full(x.shape, 1.0, tl.float32), 1.0 + exp(-x))
