"""What rounding rows adds to an error: part of ``tolerance.py``, which says what errors are.

Rounding is a staircase.  An implementation that holds a number ``r`` as ``r^``, off by at most
``d``, may stand on another step than the exact result only where an edge lies within ``d`` of
``r``; everywhere else it rounds to the very same number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import ROW_STEPS, RowFormat
from moe_export.moe.reference import quantize_rows, round_rows
from moe_export.moe.reference.rows import ROW_BLOCK, SMALLEST_SCALE

Array = npt.NDArray[Any]


def rounded_rows(
    rows: Array, error: Array, row_format: RowFormat, eps: float
) -> tuple[Array, Array]:
    """``rows [.., columns]`` (float64) as ``round_rows`` rounds them, and the bound of their error.

    ``error`` bounds what the rows are off by before: an array like ``rows``, or the scalar 0.
    """
    if row_format == "f32":
        return rows, error
    error = np.broadcast_to(error, rows.shape)
    if row_format == "bf16":
        return _bfloat16(rows, error)
    return _integers(rows, error, row_format, eps)


def _bfloat16(rows: Array, error: Array) -> tuple[Array, Array]:
    """Rounding is monotone: what lies in ``[r - d, r + d]`` stays between what its ends become.

    Subnormal numbers may be flushed.
    """
    exact = round_rows(rows, "bf16")
    above = round_rows(rows + error, "bf16") - exact
    below = exact - round_rows(rows - error, "bf16")
    return exact, np.maximum(above, below) + SMALLEST_SCALE


def _integers(rows: Array, error: Array, row_format: RowFormat, eps: float) -> tuple[Array, Array]:
    """A number moves with its block's scale, and by whole steps where an edge is near.

    With ``t = r/s`` and ``q = rint(t)``, and with a hat what is computed::

        |s^ - s| <= max d / steps + eps s                    =: ds     d over the block of 32
        |t^ - t| <= (d + |t| ds) / (s - ds) + 2 eps |t|      =: dt     divided, or times 1/s^
        |q^ s^ - q s| <= |q^ - q| (s + ds) + |q| ds

    where ``q^`` lies between ``rint(t - dt)`` and ``rint(t + dt)``: it is q but near an edge.  The
    product is one more rounding.  A block whose scale may count as 0, or may be off by half of
    itself, is bounded as a whole: neither side is larger than ``|r| + d`` and a step.
    """
    q, scales = quantize_rows(rows, row_format)
    scale_error = _max_of_blocks(error) / ROW_STEPS[row_format] + eps * scales
    scale, ds = (_of_columns(a, rows.shape[-1]) for a in (scales, scale_error))
    is_safe = scale - ds > np.maximum(SMALLEST_SCALE, scale / 2)
    divisor = np.where(is_safe, scale, 1)
    steps = rows / divisor
    dt = (error + np.abs(steps) * ds) / np.where(is_safe, scale - ds, 1) + 2 * eps * np.abs(steps)
    moved = np.maximum(np.rint(steps + dt) - q, q - np.rint(steps - dt))
    near = moved * (scale + ds) + np.abs(q) * ds + eps * np.abs(q) * scale
    whole = 2 * (np.abs(rows) + error + scale + ds) + SMALLEST_SCALE
    return q * scale, np.where(is_safe, near, whole)


def _max_of_blocks(error: Array) -> Array:
    starts = np.arange(0, error.shape[-1], ROW_BLOCK)
    return np.asarray(np.maximum.reduceat(error, starts, axis=-1))


def _of_columns(per_block: Array, columns: int) -> Array:
    return np.repeat(per_block, ROW_BLOCK, axis=-1)[..., :columns]
