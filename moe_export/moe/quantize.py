"""The quantiser: float weights become what a weight format stores, the same on every machine.

``moe_export.moe`` needs NumPy alone; ``bf16`` and ``int4`` arrays are ``ml_dtypes``, which is
imported where such an array is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import RowFormat, WeightFormat

Array = npt.NDArray[Any]

BLOCK_SIZES = (32, 64, 128)
_RANGES = {"int8": (-128, 127), "int4": (-8, 7)}
_ROW_FORMATS: dict[WeightFormat, RowFormat] = {
    "f32": "f32",
    "f16": "f32",
    "bf16": "bf16",
    "int8": "int16",
    "int4": "int8",
}

# Scales are normal numbers, so that no processor flushes one; a block of zeros has this one too.
_SMALLEST_SCALE = np.float32(np.finfo(np.float32).tiny)

# Numbers that are quantised at a time: some arrays of 1 MiB each stay in a core's cache.
_CHUNK = 1 << 18

# int4: how many steps from 0 the largest number of a block may be.  It becomes -8, or -7 by the
# first, which clips nothing on the other side.  Against 8 alone (llama.cpp's Q4_0) the three save
# 4 % of the error of normal weights; 7.5 and 9 beside them another half percent.
_INT4_STEPS = (7.0, 8.0, 8.5)
# The same for zero points: shares of a block's range.  Two beside the whole save 3 %.
_INT4_SHARES = (1.0, 0.95, 0.9)


@dataclass(frozen=True)
class Precision:
    """How weights are stored; ``block_size`` columns share a scale, 0 is all of a row.

    ``str()`` is the text that ``parse_precision`` reads.  Raises ``ValueError`` where there is no
    such format.
    """

    format: WeightFormat
    block_size: int = 0
    zeros: bool = False

    def __post_init__(self) -> None:
        if self.format not in get_args(WeightFormat):
            raise ValueError(f"format must be one of {get_args(WeightFormat)}")
        blocks = {"int8": (0, *BLOCK_SIZES), "int4": BLOCK_SIZES}.get(self.format, (0,))
        if self.block_size not in blocks:
            raise ValueError(f"{self.format} has blocks of {blocks}, not {self.block_size}")
        if self.zeros and self.format not in _RANGES:
            raise ValueError(f"{self.format} has no zero points")

    @property
    def row_format(self) -> RowFormat:
        """What rows are rounded to before they meet such weights."""
        return _ROW_FORMATS[self.format]

    def __str__(self) -> str:
        block = f":{self.block_size}" if self.block_size else ""
        return f"{self.format}{block}{'+zeros' if self.zeros else ''}"


@dataclass(frozen=True)
class Quantized:
    """A stored weight ``[.., rows, columns]``; scales and zeros are ``[.., rows, blocks]``.

    A number is ``(value - zero) * scale``, as ``reference.dequantize`` computes it.
    """

    values: Array
    scales: Array | None = None
    zeros: Array | None = None


def parse_precision(text: str) -> Precision:
    """The precision that a person names: ``bf16``, ``int8``, ``int8:64``, ``int4``, ``int4+zeros``.

    ``int8`` has one scale per row, ``int4`` one per 32 columns.  Raises ``ValueError`` for another
    text.
    """
    parts = re.fullmatch(r"(f32|bf16|f16)|(int8|int4)(?::(32|64|128))?(\+zeros)?", text)
    if parts is None:
        raise ValueError(
            f"no precision {text!r}: it is f32, bf16, f16, int8, int4, int8:BLOCK or int4:BLOCK"
            f" with a BLOCK of 32, 64 or 128, and integers may end in +zeros"
        )
    floats, integers, block, zeros = parts.groups()
    default = "32" if integers == "int4" else "0"
    name = cast("WeightFormat", floats or integers)
    return Precision(name, int(block or default), zeros is not None)


def quantize(weight: Array, precision: Precision) -> Quantized:
    """``weight [.., rows, columns]`` as ``precision`` stores it.

    Floats are rounded to nearest even.  Scales of integers are float32 that bfloat16 holds exactly,
    of either sign, and at least the smallest normal number in size.  ``int8`` clips nothing: a
    number is off by half a step at most, symmetric values are within +-127.  ``int4`` takes, block
    by block, the one of a few scales that leaves the least squared error; the first of them clips
    nothing.

    Raises ``ValueError`` for a weight that is not finite, or not in float16 or bfloat16 (``f32``
    rounds nothing and lets NaN and infinities through).
    """
    if precision.format == "f32":
        return Quantized(weight.astype(np.float32))
    if precision.format in ("f16", "bf16"):
        return Quantized(_narrowed(weight, precision.format))
    return _integers(weight, precision)


def facts(
    shape: tuple[int, ...], precision: Precision
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of what a weight ``[.., rows, columns]`` is stored as, part by part."""
    # One row and one column tell the dtypes; the number of blocks follows from the columns.
    sample = quantize(np.zeros((1, 1), np.float32), precision)
    blocks = -(-shape[-1] // precision.block_size) if precision.block_size else 1
    shapes = {"values": shape, "scales": (*shape[:-1], blocks), "zeros": (*shape[:-1], blocks)}
    return {
        part: (shapes[part], getattr(sample, part).dtype)
        for part in shapes
        if getattr(sample, part) is not None
    }


def _narrowed(weight: Array, name: str) -> Array:
    dtype = np.dtype(np.float16) if name == "f16" else _bfloat16()
    out = np.empty(weight.shape, dtype)
    for given, made in _chunks(weight, out):
        numbers = given.astype(np.float32)
        with np.errstate(over="ignore"):
            made[...] = numbers.astype(dtype)
        if not np.isfinite(made).all():
            worst = numbers[~np.isfinite(made)][0]
            raise ValueError(f"a weight holds {worst:g}, which {name} does not")
    return out


def _integers(weight: Array, precision: Precision) -> Quantized:
    columns = weight.shape[-1]
    block = precision.block_size or max(columns, 1)
    blocks = -(-columns // block)
    dtype = np.dtype(np.int8) if precision.format == "int8" else _int4()
    values = np.empty(weight.shape, dtype)
    scales = np.empty((*weight.shape[:-1], blocks), np.float32)
    zeros = np.empty(scales.shape, dtype) if precision.zeros else None
    for given, out, scale, zero in _chunks(weight, values, scales, zeros):
        numbers = np.zeros((len(given), blocks * block), np.float32)
        with np.errstate(over="ignore"):
            numbers[:, :columns] = given
        if not np.isfinite(numbers).all():
            raise ValueError(f"a weight holds {numbers[~np.isfinite(numbers)][0]:g}")
        by_block = numbers.reshape(len(given), blocks, block)
        q, scale[...], of_zero = _best(by_block, precision)
        out[...] = q.reshape(len(given), -1)[:, :columns]
        if zero is not None:
            zero[...] = of_zero
    return Quantized(values, scales, zeros)


def _chunks(weight: Array, *others: Array | None) -> Iterator[tuple[Any, ...]]:
    """The same rows of arrays ``[.., rows, n]``, some at a time, as views ``[some, n]``."""
    rows = [None if a is None else a.reshape(-1, a.shape[-1]) for a in (weight, *others)]
    count = len(rows[0]) if rows[0] is not None and weight.size else 0
    step = max(1, _CHUNK // max(weight.shape[-1], 1))
    for start in range(0, count, step):
        yield tuple(None if a is None else a[start : start + step] for a in rows)


def _best(by_block: Array, precision: Precision) -> tuple[Array, Array, Array]:
    """Integers ``[R, blocks, block]``, scales and zero points ``[R, blocks]`` of least error."""
    low, high = _RANGES[precision.format]
    if precision.zeros:
        shares = _INT4_SHARES if precision.format == "int4" else _INT4_SHARES[:1]
        candidates = _with_zeros(by_block, shares, low, high)
    elif precision.format == "int4":
        candidates = _signed(by_block)
    else:
        low = -high
        candidates = _symmetric(by_block)
    scale, zero = candidates[0]
    if len(candidates) > 1:
        least = _squared_error(by_block, scale, zero, low, high)
        for other_scale, other_zero in candidates[1:]:
            error = _squared_error(by_block, other_scale, other_zero, low, high)
            better = error < least
            scale = np.where(better, other_scale, scale)
            zero = np.where(better, other_zero, zero)
            least = np.minimum(error, least)
    q = _steps(by_block, scale, zero, low, high)
    q += zero[..., np.newaxis]
    return q, scale, zero


def _steps(by_block: Array, scale: Array, zero: Array, low: int, high: int) -> Array:
    """How many steps each number is from 0, within what the format holds."""
    q = by_block / scale[..., np.newaxis]
    np.rint(q, out=q)
    zero = zero[..., np.newaxis]
    return np.clip(q, np.float32(low) - zero, np.float32(high) - zero, out=q)


def _squared_error(by_block: Array, scale: Array, zero: Array, low: int, high: int) -> Array:
    off = _steps(by_block, scale, zero, low, high)
    off *= scale[..., np.newaxis]
    off -= by_block
    return np.asarray(np.einsum("rbc,rbc->rb", off, off))


def _symmetric(by_block: Array) -> list[tuple[Array, Array]]:
    scale = _scale(np.abs(by_block).max(axis=-1) / np.float32(127))
    return [(scale, np.zeros_like(scale))]


def _signed(by_block: Array) -> list[tuple[Array, Array]]:
    """The number of largest size becomes -8, whichever sign it has: then the scale has the other.

    The first candidate has it at 7 in size, which clips nothing.
    """
    smallest, largest = by_block.min(axis=-1), by_block.max(axis=-1)
    size = np.maximum(-smallest, largest)
    sign = np.where(largest > -smallest, np.float32(-1), np.float32(1))
    scales = [_scale(size / np.float32(steps)) * sign for steps in _INT4_STEPS]
    return [(scale, np.zeros_like(scale)) for scale in scales]


def _with_zeros(
    by_block: Array, shares: tuple[float, ...], low: int, high: int
) -> list[tuple[Array, Array]]:
    """A share of the range from the smallest number (at most 0) to the largest (at least 0)."""
    smallest = np.minimum(by_block.min(axis=-1), np.float32(0))
    largest = np.maximum(by_block.max(axis=-1), np.float32(0))
    candidates = []
    for share in shares:
        step = np.float32(share / (high - low))
        scale = _scale(largest * step - smallest * step)
        zero = np.rint(np.float32(low) - smallest * np.float32(share) / scale)
        candidates.append((scale, np.clip(zero, low, high)))
    return candidates


def _scale(wanted: Array) -> Array:
    """``wanted``, which is not negative, rounded up to a normal number that bfloat16 holds."""
    bits = np.maximum(wanted, _SMALLEST_SCALE).astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def _bfloat16() -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _int4() -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.int4)
    return dtype
