"""The quantiser: float weights become what a weight format stores, the same on every machine.

``moe_export.moe`` needs NumPy alone; ``bf16`` and ``int4`` arrays are ``ml_dtypes``, which is
imported where such an array is made.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from moe_export.moe import steps
from moe_export.moe.layer import ROW_STEPS, RowFormat, WeightFormat

Array = npt.NDArray[Any]

BLOCK_SIZES = (32, 64, 128)
_ROW_FORMATS: dict[WeightFormat, RowFormat] = {
    "f32": "f32",
    "f16": "f32",
    "bf16": "bf16",
    "int8": "int16",
    "int4": "int8",
}

# Numbers that are quantised at a time: copies of 1 MiB stay in the cache, calls cost little beside.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Precision:
    """How weights are stored; ``block_size`` columns share a scale, 0 is all of a row.

    ``rows`` is what rows are rounded to before they meet such weights, where that is not what the
    format goes with by itself.  ``str()`` is the text that ``parse_precision`` reads.  Raises
    ``ValueError`` where there is no such format.
    """

    format: WeightFormat
    block_size: int = 0
    zeros: bool = False
    rows: RowFormat | None = None

    def __post_init__(self) -> None:
        if self.format not in get_args(WeightFormat):
            raise ValueError(f"format must be one of {get_args(WeightFormat)}")
        blocks = {"int8": (0, *BLOCK_SIZES), "int4": BLOCK_SIZES}.get(self.format, (0,))
        if self.block_size not in blocks:
            raise ValueError(f"{self.format} has blocks of {blocks}, not {self.block_size}")
        if self.zeros and self.format not in steps.RANGES:
            raise ValueError(f"{self.format} has no zero points")
        if self.rows == _ROW_FORMATS[self.format]:
            object.__setattr__(self, "rows", None)  # or equal precisions would differ
        if self.rows in ROW_STEPS and self.format not in steps.RANGES:
            raise ValueError(f"rows of {self.rows} do not go with {self.format} weights")

    @property
    def row_format(self) -> RowFormat:
        """What rows are rounded to before they meet such weights."""
        return self.rows or _ROW_FORMATS[self.format]

    def __str__(self) -> str:
        block = f":{self.block_size}" if self.block_size else ""
        rows = f"@{self.rows}" if self.rows else ""
        return f"{self.format}{block}{'+zeros' if self.zeros else ''}{rows}"


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

    ``int8`` has one scale per row, ``int4`` one per 32 columns.  What rows are rounded to may stand
    behind: ``int4@bf16``.  Raises ``ValueError`` for another text.
    """
    if not isinstance(text, str):
        raise TypeError(f"a precision is named by a text, not by {text!r}")
    text, at, rows = text.partition("@")
    parts = re.fullmatch(r"(f32|bf16|f16)|(int8|int4)(?::(32|64|128))?(\+zeros)?", text)
    if parts is None:
        raise ValueError(
            f"no precision {text!r}: it is f32, bf16, f16, int8, int4, int8:BLOCK or int4:BLOCK"
            f" with a BLOCK of 32, 64 or 128, and integers may end in +zeros"
        )
    floats, integers, block, zeros = parts.groups()
    default = "32" if integers == "int4" else "0"
    name = cast("WeightFormat", floats or integers)
    if at and rows not in get_args(RowFormat):
        raise ValueError(f"no rows {rows!r}: they are {', '.join(get_args(RowFormat))}")
    return Precision(
        name, int(block or default), zeros is not None, cast("RowFormat", rows) or None
    )


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
    made = quantize_to_bytes(weight, precision)
    if precision.format != "int4":
        return made
    zeros = None if made.zeros is None else _as_int4(made.zeros)
    return Quantized(_as_int4(made.values), made.scales, zeros)


def quantize_to_bytes(weight: Array, precision: Precision) -> Quantized:
    """As ``quantize``, but ``int4`` comes as int8 that holds -8..7."""
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
    for given, made in _chunks(_rows_of_chunk(weight.shape[-1]), weight, out):
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
    values = np.empty(weight.shape, np.int8)
    scales = np.empty((*weight.shape[:-1], blocks), np.float32)
    zeros = np.empty(scales.shape, np.int8) if precision.zeros else None
    at_a_time = max(1, min(_rows_of_chunk(blocks * block), math.prod(weight.shape[:-1])))
    work = _kept.of(at_a_time, columns, precision.block_size)
    for given, out, scale, zero in _chunks(at_a_time, weight, values, scales, zeros):
        work.take(given)
        best = steps.best(work, precision.format, zeros=precision.zeros)
        work.put(best, out)
        scale[...] = best.scales.reshape(scale.shape)
        if zero is not None and best.zeros is not None:
            zero[...] = best.zeros.reshape(zero.shape)
    return Quantized(values, scales, zeros)


class _Kept(threading.local):
    """What a thread works in, some MiB: new memory costs as much as what is done in it."""

    key: tuple[int, ...] = ()
    work: steps.Rows

    def of(self, rows: int, columns: int, block: int) -> steps.Rows:
        """For so many rows, or more, of which it holds none yet."""
        if self.key[1:] != (columns, block) or self.key[0] < rows:
            padded = -(-columns // block) * block if block else columns
            self.work = steps.Blocks(rows, padded, block) if block else steps.Rows(rows, columns)
            self.key = (rows, columns, block)
        return self.work


_kept = _Kept()


def _chunks(step: int, weight: Array, *others: Array | None) -> Iterator[tuple[Any, ...]]:
    """The same rows of arrays ``[.., rows, n]``, so many at a time, as views ``[some, n]``."""
    rows = [None if a is None else a.reshape(-1, a.shape[-1]) for a in (weight, *others)]
    count = len(rows[0]) if rows[0] is not None and weight.size else 0
    for start in range(0, count, step):
        yield tuple(None if a is None else a[start : start + step] for a in rows)


def _rows_of_chunk(columns: int) -> int:
    return max(1, _CHUNK // max(columns, 1))


def _as_int4(bytes_: Array) -> Array:
    """The same numbers in the same memory: ``ml_dtypes`` has them in the low half of a byte."""
    bytes_ &= 15
    return bytes_.view(_int4())


def _bfloat16() -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _int4() -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.int4)
    return dtype
