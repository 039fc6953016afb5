"""The activations of docs/ops.md.  Numbers are those of `enum class Activation`."""

import triton
import triton.language as tl
from exponential import sigmoid


@triton.jit
def activate_one(x, activation):
    """All but `swiglu_clamped`, which needs a gate.  A NaN stays one."""
    y = x  # 5, identity
    if activation == 0:  # silu
        y = x * sigmoid(x)
    if activation == 1:  # gelu
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if activation == 2:  # gelu_tanh: (1 + tanh u) / 2 is sigmoid(2 u)
        y = x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    if activation == 3:  # relu
        y = tl.where(x < 0.0, 0.0, x)
    if activation == 4:  # relu2
        y = tl.where(x < 0.0, 0.0, x)
        y = y * y
    return y


@triton.jit
def activate_gated(gate, value, activation, alpha, limit):
    y = gate
    if activation == 6:  # swiglu_clamped
        g = tl.where(gate > limit, limit, gate)
        v = tl.where(value > limit, limit, tl.where(value < -limit, -limit, value))
        y = g * sigmoid(alpha * g) * (v + 1.0)
    else:
        y = activate_one(gate, activation) * value
    return y
