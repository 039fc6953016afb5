"""What stands between an expert's two matrices: the gate and the activation function."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import Activation, GateLayout

Array = npt.NDArray[Any]

# NumPy has no erf; Python's is correct to the last bits of float64.
_erf = np.frompyfunc(math.erf, 1, 1)


def split_gate(hidden: Array, layout: GateLayout) -> tuple[Array, Array]:
    """The gate and the value of ``hidden [.., 2I]``: its halves, or its even and odd columns."""
    if layout == "interleaved":
        return hidden[..., 0::2], hidden[..., 1::2]
    gate, value = np.split(hidden, 2, axis=-1)
    return gate, value


def activate(
    name: Activation,
    hidden: Array,
    value: Array | None = None,
    *,
    alpha: float = 1.702,
    limit: float = 7.0,
) -> Array:
    """``act(hidden)``, times ``value`` where there is one: ``hidden`` is then the gate.

    ``gelu`` is exact (``erf``), ``gelu_tanh`` its usual approximation, ``relu2`` is ``relu``
    squared.  ``swiglu_clamped`` needs a ``value`` and clamps before it multiplies (GPT-OSS):
    ``gate * sigmoid(alpha * gate) * (value + 1)`` with ``gate`` at most ``limit`` and ``value``
    within ``+-limit``.
    """
    if name == "swiglu_clamped":
        if value is None:
            raise ValueError("'swiglu_clamped' needs a gate and a value")
        number = hidden.dtype.type
        hidden = np.minimum(hidden, number(limit))
        value = np.clip(value, number(-limit), number(limit)) + number(1)
        return np.asarray(hidden * _sigmoid(number(alpha) * hidden) * value)
    activated = _activated(name, hidden)
    return activated if value is None else np.asarray(activated * value)


def _activated(name: Activation, x: Array) -> Array:
    number = x.dtype.type
    if name == "silu":
        return np.asarray(x * _sigmoid(x))
    if name == "gelu":
        erf = np.asarray(_erf(x.astype(np.float64) / math.sqrt(2)), x.dtype)
        return np.asarray(number(0.5) * x * (number(1) + erf))
    if name == "gelu_tanh":
        inner = number(math.sqrt(2 / math.pi)) * (x + number(0.044715) * x * x * x)
        return np.asarray(number(0.5) * x * (number(1) + np.tanh(inner)))
    if name == "relu":
        return np.asarray(np.maximum(x, number(0)))
    if name == "relu2":
        return np.asarray(np.square(np.maximum(x, number(0))))
    if name == "identity":
        return x
    raise ValueError(f"unknown activation {name!r}")


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))
