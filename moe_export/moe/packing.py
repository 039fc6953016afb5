"""Weights in panels, the layout that the CPU kernels stream: ``docs/panels.md`` says every byte.

``plugins/kernels/cpu/panels.cc`` packs the same bytes.  NumPy alone: ``bf16`` and ``int4`` arrays
are ``ml_dtypes``, which is imported where ``unpack`` makes one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import WeightFormat

Array = npt.NDArray[Any]

VERSION = 1
PANEL_ROWS = 16
ALIGNMENT = 64
_MAGIC = b"MOEPANEL"
_HEADER = struct.Struct("<8s8IQ16s")
HEADER_BYTES = _HEADER.size
_FORMATS: tuple[WeightFormat, ...] = ("f32", "bf16", "f16", "int8", "int4")
_DTYPE_NAMES: dict[str, WeightFormat] = {
    "float32": "f32",
    "bfloat16": "bf16",
    "float16": "f16",
    "int8": "int8",
    "int4": "int4",
}
_COLUMN_PADDING: dict[WeightFormat, int] = {"f32": 1, "bf16": 2, "f16": 2, "int8": 32, "int4": 32}
_BITS: dict[WeightFormat, int] = {"f32": 32, "bf16": 16, "f16": 16, "int8": 8, "int4": 4}
_OFFSETS: dict[WeightFormat, int] = {"int8": 128, "int4": 8}
# Bytes that are packed at a time: with a copy they stay in a core's cache.
_CHUNK_BYTES = 1 << 18
_GATED, _ZEROS, _WIDE_SCALES = 1, 2, 4


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the blob of ``[experts, rows, columns]`` holds.  Raises ``ValueError`` for no weight."""

    format: WeightFormat
    experts: int
    rows: int
    columns: int
    block_size: int = 0
    gated: bool = False
    zeros: bool = False
    wide_scales: bool = False

    def __post_init__(self) -> None:
        if self.format not in get_args(WeightFormat):
            raise ValueError(f"format must be one of {get_args(WeightFormat)}")
        sizes = (self.experts, self.rows, self.columns)
        if not all(0 < size < 1 << 32 for size in sizes):
            raise ValueError(f"a weight in panels has 1 to 2^32 - 1 of each axis, got {sizes}")
        if self.gated and self.rows % 2:
            raise ValueError(f"{self.rows} rows are not gates and values")
        if self.block_size % 32 or not 0 <= self.block_size < 1 << 32:
            raise ValueError(f"blocks have a multiple of 32 columns, got {self.block_size}")
        if not self.is_integer and (self.block_size or self.zeros or self.wide_scales):
            raise ValueError(f"{self.format} has neither blocks nor scales nor zeros")
        if self.is_integer and not self.block_size and not self.wide_scales:
            raise ValueError("one scale per row is a wide one")

    @property
    def is_integer(self) -> bool:
        return self.format in _OFFSETS

    @property
    def blocks(self) -> int:
        """Scales of a row; 0 for floats."""
        if not self.is_integer:
            return 0
        return -(-self.columns // self.block_size) if self.block_size else 1

    @property
    def padded_columns(self) -> int:
        return _up(self.columns, _COLUMN_PADDING[self.format])

    @property
    def panels(self) -> int:
        """Panels of one expert."""
        if self.gated:
            return 2 * -(-(self.rows // 2) // PANEL_ROWS)
        return -(-self.rows // PANEL_ROWS)

    @property
    def value_bytes(self) -> int:
        """Bytes of a panel before its scales."""
        return self.padded_columns * PANEL_ROWS * _BITS[self.format] // 8

    @property
    def scale_bytes(self) -> int:
        return self.blocks * PANEL_ROWS * (4 if self.wide_scales else 2)

    @property
    def panel_bytes(self) -> int:
        zeros = self.blocks * PANEL_ROWS if self.zeros else 0
        return _up(self.value_bytes + self.scale_bytes + zeros, ALIGNMENT)

    @property
    def expert_bytes(self) -> int:
        return self.panels * self.panel_bytes

    @property
    def total_bytes(self) -> int:
        return _HEADER.size + self.experts * self.expert_bytes

    def encode(self) -> bytes:
        """The first 64 bytes of the blob."""
        flags = self.gated * _GATED | self.zeros * _ZEROS | self.wide_scales * _WIDE_SCALES
        sizes = (self.experts, self.rows, self.columns, self.block_size)
        number = _FORMATS.index(self.format)
        return _HEADER.pack(_MAGIC, VERSION, number, *sizes, flags, 0, self.expert_bytes, b"")


def packed_size(
    shape: tuple[int, int, int],
    weight_format: WeightFormat,
    *,
    block_size: int = 0,
    gated: bool = False,
    zeros: bool = False,
    wide_scales: bool = False,
) -> int:
    """The bytes that ``pack`` makes of a weight ``[E, rows, columns]``, from its facts alone.

    ``wide_scales``: bfloat16 does not hold its scales exactly.  Scales of moe-export's own
    quantiser it does; a scale per row is always wide.
    """
    wide = weight_format in _OFFSETS and (wide_scales or not block_size)
    experts, rows, columns = shape
    return Header(
        format=weight_format, experts=experts, rows=rows, columns=columns, block_size=block_size,
        gated=gated, zeros=zeros, wide_scales=wide,
    ).total_bytes  # fmt: skip


def pack(
    values: Array,
    *,
    gated: bool = False,
    interleaved: bool = False,
    scales: Array | None = None,
    zeros: Array | None = None,
    block_size: int = 0,
) -> Array:
    """The blob, uint8 ``[bytes]``, of ``values [E, rows, columns]``; its format is their dtype.

    ``scales`` and ``zeros`` are ``[E, rows, blocks]``.  ``gated`` rows are gates and values, in the
    two halves of the rows or, ``interleaved``, in turn.  Memory: the blob and one expert.

    Raises ``ValueError`` for arrays that are not such a weight.
    """
    weight_format = _DTYPE_NAMES.get(values.dtype.name)
    if weight_format is None or values.ndim != 3:
        raise ValueError(f"no weight in panels: {values.dtype.name} {values.shape}")
    if (scales is None) == (weight_format in _OFFSETS):
        raise ValueError("scales go with int8 and int4 weights, and only with them")
    experts, rows, columns = values.shape
    header = Header(
        format=weight_format, experts=experts, rows=rows, columns=columns, block_size=block_size,
        gated=gated, zeros=zeros is not None,
        wide_scales=scales is not None and (not block_size or not _fits_bfloat16(scales)),
    )  # fmt: skip
    for name, array in (("scales", scales), ("zeros", zeros)):
        if array is not None and array.shape != (experts, rows, header.blocks):
            raise ValueError(f"{name} {array.shape} of {header.blocks} blocks of {values.shape}")

    def expert(number: int) -> tuple[Array, Array | None, Array | None]:
        return (
            values[number],
            None if scales is None else scales[number],
            None if zeros is None else zeros[number],
        )

    blob = np.empty(header.total_bytes, np.uint8)
    end = 0
    for piece in pack_in_pieces(header, expert, interleaved=interleaved):
        blob[end : end + piece.size] = piece
        end += piece.size
    return blob


def pack_in_pieces(
    header: Header,
    expert: Callable[[int], tuple[Array, Array | None, Array | None]],
    *,
    interleaved: bool = False,
) -> Iterator[Array]:
    """The blob in pieces: the header, then the panels of each expert, read when they are made.

    ``expert`` gives one's values ``[rows, columns]``, scales and zeros ``[rows, blocks]``.  A piece
    may be overwritten when the next is asked for.
    """
    yield np.frombuffer(header.encode(), np.uint8)
    order = _rows_in_panels(header, interleaved=interleaved)
    panels = np.zeros((header.panels, header.panel_bytes), np.uint8)
    for number in range(header.experts):
        values, scales, zeros = expert(number)
        _put_values(panels, values, header, order)
        if scales is not None:
            _put_scales(panels, scales, header, order)
        if zeros is not None:
            _put_zeros(panels, zeros, header, order)
        yield panels.reshape(-1)


def unpack(blob: Array) -> tuple[Array, Array | None, Array | None, Header]:
    """``values``, ``scales`` (float32), ``zeros`` and the header of a blob that ``pack`` made.

    Gated rows come as gates and then values, whatever they were before.

    Raises ``ValueError`` where the blob is not whole or not of this version.
    """
    header = read_header(blob)
    shape = (header.experts, header.rows)
    values = np.empty((*shape, header.columns), _dtype(header.format))
    scales = np.empty((*shape, header.blocks), np.float32) if header.is_integer else None
    zeros = np.empty((*shape, header.blocks), values.dtype) if header.zeros else None
    order = _rows_in_panels(header, interleaved=False)
    is_row = order >= 0
    for expert, panels in enumerate(_experts(blob, header)):
        values[expert, order[is_row]] = _values(panels, header)[is_row]
        if scales is not None:
            scales[expert, order[is_row]] = _scales(panels, header)[is_row]
        if zeros is not None:
            zeros[expert, order[is_row]] = _zeros(panels, header)[is_row]
    return values, scales, zeros, header


def read_header(blob: Array) -> Header:
    """What a blob says it is.  Raises ``ValueError`` where it is not whole, or not of version 1."""
    if blob.dtype != np.uint8 or blob.ndim != 1 or blob.size < _HEADER.size:
        raise ValueError(f"no panels: {blob.dtype.name} {blob.shape}")
    fields = _HEADER.unpack(blob[: _HEADER.size].tobytes())
    magic, version, number, experts, rows, columns, block_size, flags = fields[:8]
    if magic != _MAGIC:
        raise ValueError(f"no panels: they begin with {_MAGIC.decode()}, not {magic!r}")
    if version != VERSION:
        raise ValueError(f"panels of version {version}; this is version {VERSION}")
    if number >= len(_FORMATS):
        raise ValueError(f"panels of an unknown format {number}")
    header = Header(
        format=_FORMATS[number], experts=experts, rows=rows, columns=columns, block_size=block_size,
        gated=bool(flags & _GATED), zeros=bool(flags & _ZEROS),
        wide_scales=bool(flags & _WIDE_SCALES),
    )  # fmt: skip
    if blob.size != header.total_bytes:
        raise ValueError(f"panels of {header.total_bytes} bytes, of which {blob.size} are here")
    # What else a header may hold, unknown flags among it, is not what pack() writes.
    if header.encode() != blob[: _HEADER.size].tobytes():
        raise ValueError("panels whose header contradicts itself")
    return header


def _rows_in_panels(header: Header, *, interleaved: bool) -> npt.NDArray[np.int64]:
    """For each row of the panels, one after the other, the row of the source; -1 is padding."""
    if not header.gated:
        return _padded(np.arange(header.rows), header.panels)
    half, panels = header.rows // 2, header.panels // 2
    gates = np.arange(0, header.rows, 2) if interleaved else np.arange(half)
    values = gates + (1 if interleaved else half)
    by_kind = [_padded(rows, panels).reshape(panels, PANEL_ROWS) for rows in (gates, values)]
    return np.stack(by_kind, axis=1).reshape(-1)


def _padded(rows: npt.NDArray[np.int64], panels: int) -> npt.NDArray[np.int64]:
    return np.pad(rows, (0, panels * PANEL_ROWS - len(rows)), constant_values=-1)


def _experts(blob: Array, header: Header) -> Array:
    """``[E, panels, bytes of a panel]``, a view."""
    return blob[_HEADER.size :].reshape(header.experts, header.panels, header.panel_bytes)


def _put_values(panels: Array, values: Array, header: Header, order: Array) -> None:
    """Write one expert's ``values [rows, columns]``, so many panels at a time as a cache holds."""
    numbers = _as_bytes_or_words(values, header.format)
    step = max(1, _CHUNK_BYTES // (PANEL_ROWS * header.padded_columns * numbers.itemsize))
    for start in range(0, header.panels, step):
        space = panels[start : start + step, : header.value_bytes]
        wanted = order[start * PANEL_ROWS : (start + len(space)) * PANEL_ROWS]
        rows = _rows_of(numbers, wanted, header)
        if header.format == "int4":
            # Of eight bytes the first four stay; the other four become their upper halves.
            eight = rows.view("<u8")
            units = (eight | eight >> np.uint64(28)).astype("<u4")
        else:
            # What of a row lies side by side is moved as one.
            units = rows.view("<u4" if rows.itemsize * _run(header.format) == 4 else rows.dtype)
        target = space.view(units.dtype).reshape(len(space), -1, PANEL_ROWS)
        target[...] = units.reshape(len(space), PANEL_ROWS, -1).swapaxes(1, 2)


def _rows_of(numbers: Array, wanted: Array, header: Header) -> Array:
    """Those rows as panels have them, padded and with their offset."""
    is_row = wanted >= 0
    if is_row.all() and numbers.shape[1] == header.padded_columns:
        rows = numbers[wanted]
    else:
        rows = np.zeros((len(wanted), header.padded_columns), numbers.dtype)
        rows[is_row, : header.columns] = numbers[wanted[is_row]]
    if header.is_integer:
        # To add half of what a byte or a half of one can be is to change its uppermost bit.
        rows ^= np.uint8(_OFFSETS[header.format])
    if header.format == "int4":
        rows &= np.uint8(15)
    return rows


def _values(panels: Array, header: Header) -> Array:
    """One expert's ``[rows of its panels, columns]``, the reverse of ``_put_values``."""
    space = panels[:, : header.value_bytes]
    if header.format == "int4":
        both = space.reshape(header.panels, -1, PANEL_ROWS, 4).swapaxes(1, 2)
        numbers = np.stack((both & 15, both >> 4), axis=-2)
    else:
        word = np.dtype(f"<u{_BITS[header.format] // 8}")
        run = _run(header.format)
        numbers = space.view(word).reshape(header.panels, -1, PANEL_ROWS, run).swapaxes(1, 2)
    rows = numbers.reshape(header.panels * PANEL_ROWS, header.padded_columns)[:, : header.columns]
    if not header.is_integer:
        return np.ascontiguousarray(rows).view(_dtype(header.format))
    return (rows.astype(np.int16) - _OFFSETS[header.format]).astype(_dtype(header.format))


def _put_scales(panels: Array, scales: Array, header: Header, order: Array) -> None:
    words = scales.astype("<f4").view("<u4")
    if not header.wide_scales:
        words = (words >> 16).astype("<u2")
    end = header.value_bytes + header.scale_bytes
    space = panels[:, header.value_bytes : end].view(words.dtype)
    space.reshape(header.panels, -1, PANEL_ROWS)[...] = _by_block(words, header, order, 0)


def _scales(panels: Array, header: Header) -> Array:
    end = header.value_bytes + header.scale_bytes
    space = panels[:, header.value_bytes : end]
    words = space.view("<u4") if header.wide_scales else space.view("<u2").astype("<u4") << 16
    by_row = words.reshape(header.panels, header.blocks, PANEL_ROWS).swapaxes(1, 2)
    return np.ascontiguousarray(by_row).view("<f4").reshape(-1, header.blocks)


def _put_zeros(panels: Array, zeros: Array, header: Header, order: Array) -> None:
    shifted = _as_bytes_or_words(zeros, header.format) ^ np.uint8(_OFFSETS[header.format])
    if header.format == "int4":
        shifted &= np.uint8(15)
    start = header.value_bytes + header.scale_bytes
    space = panels[:, start : start + header.blocks * PANEL_ROWS]
    nothing = _OFFSETS[header.format]
    space.reshape(header.panels, -1, PANEL_ROWS)[...] = _by_block(shifted, header, order, nothing)


def _zeros(panels: Array, header: Header) -> Array:
    start = header.value_bytes + header.scale_bytes
    space = panels[:, start : start + header.blocks * PANEL_ROWS]
    by_row = space.reshape(header.panels, header.blocks, PANEL_ROWS).swapaxes(1, 2)
    shifted = by_row.reshape(-1, header.blocks).astype(np.int16) - _OFFSETS[header.format]
    return shifted.astype(_dtype(header.format))


def _by_block(per_row: Array, header: Header, order: Array, nothing: int) -> Array:
    """``[rows, blocks]`` as panels have it, ``[panels, blocks, 16]``."""
    padded = per_row[order]
    padded[order < 0] = nothing
    return padded.reshape(header.panels, PANEL_ROWS, header.blocks).swapaxes(1, 2)


def _as_bytes_or_words(values: Array, weight_format: WeightFormat) -> Array:
    """The bits of numbers; of an int4 the lower half of a byte."""
    word = "u1" if weight_format in _OFFSETS else f"<u{_BITS[weight_format] // 8}"
    return np.ascontiguousarray(values).view(word)


def _run(weight_format: WeightFormat) -> int:
    """Neighbouring columns of a row that lie side by side."""
    return {"bf16": 2, "int8": 4}.get(weight_format, 1)


def _fits_bfloat16(scales: Array) -> bool:
    words = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    return not np.any(words & np.uint32(0xFFFF))


def _dtype(weight_format: WeightFormat) -> np.dtype[Any]:
    if weight_format in ("bf16", "int4"):
        import ml_dtypes

        narrow: np.dtype[Any] = np.dtype(
            ml_dtypes.bfloat16 if weight_format == "bf16" else ml_dtypes.int4
        )
        return narrow
    return np.dtype({"f32": np.float32, "f16": np.float16, "int8": np.int8}[weight_format])


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
