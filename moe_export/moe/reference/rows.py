"""What rows are rounded to before a matrix multiplies them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import ROW_STEPS, RowFormat

Array = npt.NDArray[Any]

ROW_BLOCK = 32
"""Numbers of a row that share a scale where rows are ``int8`` or ``int16``."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@np.errstate(invalid="ignore", over="ignore")
def round_rows(rows: Array, row_format: RowFormat) -> Array:
    """``rows [.., columns]`` rounded to ``row_format``, in their own dtype, float32 or float64.

    ``bf16``: to nearest even.  ``int8`` and ``int16``: each block of 32 columns (the last may be
    shorter) to ``scale * (-steps .. steps)`` with ``scale = max|x| / steps``, ties of ``x / scale``
    to even; there are 127 or 32767 steps.  A block whose scale is not a normal float32 is 0, one
    that holds a NaN or an infinity is NaN.
    """
    if row_format == "f32":
        return rows
    if row_format == "bf16":
        return _to_bfloat16(rows)
    if row_format in ROW_STEPS:
        q, scales = quantize_rows(rows, row_format)
        of_column = np.repeat(scales, ROW_BLOCK, axis=-1)[..., : rows.shape[-1]]
        return np.asarray(q * of_column)
    raise ValueError(f"unknown row_format {row_format!r}")


def quantize_rows(rows: Array, row_format: RowFormat) -> tuple[Array, Array]:
    """Whole numbers ``[.., columns]`` and scales ``[.., blocks]`` of ``rows``, as floats."""
    columns = rows.shape[-1]
    blocks = -(-columns // ROW_BLOCK)
    padding = [(0, 0)] * (rows.ndim - 1) + [(0, blocks * ROW_BLOCK - columns)]
    by_block = np.pad(rows, padding).reshape(*rows.shape[:-1], blocks, ROW_BLOCK)
    number = rows.dtype.type
    scales = np.abs(by_block).max(axis=-1, initial=number(0)) / number(ROW_STEPS[row_format])
    scales = np.where(np.isfinite(by_block).all(axis=-1), scales, number(np.nan))
    scales = np.where(scales < SMALLEST_SCALE, number(0), scales)
    divisors = np.where(scales == 0, number(np.inf), scales)
    q = np.rint(by_block / divisors[..., np.newaxis])
    return q.reshape(*rows.shape[:-1], blocks * ROW_BLOCK)[..., :columns], scales


def _to_bfloat16(rows: Array) -> Array:
    """bfloat16 has 8 significant bits, exponents to 2^127 and subnormals in steps of 2^-133."""
    _, exponent = np.frexp(rows)
    step = np.maximum(exponent, -125) - 8
    rounded = np.ldexp(np.rint(np.ldexp(rows, -step)), step)
    infinite = np.copysign(rows.dtype.type(np.inf), rows)
    return np.asarray(np.where(np.abs(rounded) >= 2.0**128, infinite, rounded))
