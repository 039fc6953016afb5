"""The ops that multiply: ``Experts``, ``Dispatch``, ``GroupedMatMul``, ``Combine``, ``Linear``."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import ExpertsSpec, RowFormat
from moe_export.moe.reference.activations import activate, split_gate
from moe_export.moe.reference.dequantize import dequantize
from moe_export.moe.reference.rows import round_rows

Array = npt.NDArray[Any]

# Infinities and NaN follow IEEE arithmetic; they are no accident to warn about.
ieee = np.errstate(invalid="ignore", over="ignore")


@ieee
def experts(
    x: Array,
    topk_ids: Array,
    topk_weights: Array,
    spec: ExpertsSpec,
    *,
    down: Array,
    up: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    up_scales: Array | None = None,
    up_zeros: Array | None = None,
    down_scales: Array | None = None,
    down_zeros: Array | None = None,
) -> Array:
    """``y [T, Hout]``: for each token the weighted sum of what its experts make of it.

    ``x`` is ``[T, H]``, ``topk_ids`` and ``topk_weights`` are ``[T, K]``, ``up`` is ``[E, I, H]``
    (gated: ``[E, 2I, H]``) and ``down`` is ``[E, Hout, I]``; without ``up`` (``intermediate_size``
    0) ``down`` is ``[E, Hout, H]``.  The sum runs in order of k.  An id outside ``[0, E)``
    contributes nothing, whatever its weight and its token hold.

    Raises ``ValueError`` where a weight's shape does not fit ``spec``.
    """
    _require_shapes(spec, up, down)
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    num_tokens, top_k = topk_ids.shape
    ids = topk_ids.reshape(-1)
    weights = topk_weights.astype(dtype).reshape(-1, 1)
    y_assigned = np.zeros((num_tokens * top_k, spec.output_size), dtype)
    for expert in range(spec.num_experts):
        assignments = np.flatnonzero(ids == expert)
        if not assignments.size:
            continue
        rows = x[assignments // top_k].astype(dtype)
        if spec.weight_on == "input":
            rows = rows * weights[assignments]
        if up is not None:
            scales, zeros = _of(up_scales, expert), _of(up_zeros, expert)
            matrix = _matrix(up[expert], dtype, spec, scales, zeros)
            hidden = _linear(round_rows(rows, spec.row_format), matrix, _of(up_bias, expert))
            rows = _activated(hidden, spec)
        scales, zeros = _of(down_scales, expert), _of(down_zeros, expert)
        matrix = _matrix(down[expert], dtype, spec, scales, zeros)
        rows = _linear(round_rows(rows, spec.row_format), matrix, _of(down_bias, expert))
        if spec.weight_on == "output":
            rows = rows * weights[assignments]
        y_assigned[assignments] = rows
    return _sum_in_order(y_assigned.reshape(num_tokens, top_k, spec.output_size))


def dispatch(topk_ids: Array, num_experts: int) -> tuple[Array, Array]:
    """``order [S]`` and ``expert_offsets [E+1]`` (int32): assignments sorted by expert.

    Assignments of one expert keep their order.  ``order`` is a permutation of the S = T*K
    assignments; expert e owns ``order[expert_offsets[e]:expert_offsets[e+1]]``, an empty range if
    nobody chose it; ids outside ``[0, E)`` come last, from ``expert_offsets[E]``.
    """
    ids = topk_ids.reshape(-1).astype(np.int64)
    keys = np.where((ids < 0) | (ids >= num_experts), num_experts, ids)
    order = np.argsort(keys, kind="stable")
    expert_offsets = np.searchsorted(keys[order], np.arange(num_experts + 1))
    return order.astype(np.int32), expert_offsets.astype(np.int32)


@ieee
def grouped_matmul(
    x_sorted: Array,
    expert_offsets: Array,
    weights: Array,
    bias: Array | None = None,
    scales: Array | None = None,
    zeros: Array | None = None,
    *,
    block_size: int = 0,
    row_format: RowFormat = "f32",
) -> Array:
    """``y_sorted [S, N]``: each expert's matrix on its own rows, in one call.

    ``x_sorted`` is ``[S, H]``, ``weights`` is ``[E, N, H]``, ``bias`` is ``[E, N]``.  Rows from
    ``expert_offsets[E]`` on belong to no expert and are 0.
    """
    dtype = np.float64 if x_sorted.dtype == np.float64 else np.float32
    y_sorted = np.zeros((len(x_sorted), weights.shape[1]), dtype)
    for expert, (start, stop) in enumerate(itertools.pairwise(expert_offsets)):
        if start < stop:
            y_sorted[start:stop] = linear(
                x_sorted[start:stop],
                weights[expert],
                *(_of(array, expert) for array in (bias, scales, zeros)),
                block_size=block_size,
                row_format=row_format,
            )
    return y_sorted


@ieee
def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    scales: Array | None = None,
    zeros: Array | None = None,
    *,
    block_size: int = 0,
    row_format: RowFormat = "f32",
) -> Array:
    """``y [.., N]`` of ``x [.., H]``, ``weight [N, H]`` and ``bias [N]``."""
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    matrix = dequantize(weight, dtype, scales=scales, zeros=zeros, block_size=block_size)
    return _linear(round_rows(x.astype(dtype), row_format), matrix, bias)


@ieee
def combine(y_sorted: Array, order: Array, topk_weights: Array) -> Array:
    """``y [T, N]``: rows ``y_sorted [S, N]`` back at their tokens, weighted and summed over K.

    The inverse of ``dispatch``'s ``order``, then a sum in order of k.  Weights are used as they
    are: a NaN weight makes its token NaN.
    """
    dtype = np.float64 if y_sorted.dtype == np.float64 else np.float32
    y_assigned = np.empty(y_sorted.shape, dtype)
    y_assigned[order] = y_sorted
    by_token = y_assigned.reshape(*topk_weights.shape, y_sorted.shape[1])
    return _sum_in_order(by_token * topk_weights.astype(dtype)[..., np.newaxis])


def _sum_in_order(rows: Array) -> Array:
    """``[T, K, N]`` to ``[T, N]``, adding k = 0, 1, 2, ... one after the other."""
    total = np.zeros((rows.shape[0], rows.shape[2]), rows.dtype)
    for k in range(rows.shape[1]):
        total = total + rows[:, k]
    return total


def _linear(rows: Array, matrix: Array, bias: Array | None) -> Array:
    product = rows @ matrix.T
    return np.asarray(product if bias is None else product + bias.astype(product.dtype))


def _activated(hidden: Array, spec: ExpertsSpec) -> Array:
    if not spec.gated:
        return activate(spec.activation, hidden)
    gate, value = split_gate(hidden, spec.gate_layout)
    return activate(spec.activation, gate, value, alpha=spec.alpha, limit=spec.limit)


def _matrix(
    weight: Array,
    dtype: npt.DTypeLike,
    spec: ExpertsSpec,
    scales: Array | None,
    zeros: Array | None,
) -> Array:
    return dequantize(weight, dtype, scales=scales, zeros=zeros, block_size=spec.block_size)


def _of(array: Array | None, expert: int) -> Array | None:
    return None if array is None else array[expert]


def _require_shapes(spec: ExpertsSpec, up: Array | None, down: Array) -> None:
    inner = spec.intermediate_size or spec.hidden_size
    if down.shape != (spec.num_experts, spec.output_size, inner):
        raise ValueError(f"down {down.shape} does not fit {spec}")
    if (up is None) != (spec.intermediate_size == 0):
        raise ValueError("'up' goes with an intermediate_size, and a single linear has neither")
    rows = spec.intermediate_size * (2 if spec.gated else 1)
    if up is not None and up.shape != (spec.num_experts, rows, spec.hidden_size):
        raise ValueError(f"up {up.shape} does not fit {spec}")
