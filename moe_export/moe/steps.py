"""Whole steps: the integers, scales and zero points of least error for blocks of numbers.

Every operation is one of IEEE 754 on float32, and sums have one order, so that all machines agree.
What is worked on stays in a core's cache and is written to memory once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RANGES = {"int8": (-128, 127), "int4": (-8, 7)}

# Scales are normal numbers, so that no processor flushes one; a block of zeros has this one too.
_SMALLEST_SCALE = np.float32(np.finfo(np.float32).tiny)

# int4: how many steps from 0 the largest number of a block may be.  It becomes -8, or -7 by the
# first, which clips nothing on the other side.  Against 8 alone (llama.cpp's Q4_0) the three save
# 4 % of the error of normal weights; 7.5 and 9 beside them another half percent.
_INT4_STEPS = np.array([7, 8, 8.5], np.float32)
# The same for zero points: shares of a block's range.  Two beside the whole save 3 %.
_INT4_SHARES = np.array([1, 0.95, 0.9])

# Numbers of a block that lie side by side; sums have so many parts until the end.
_LANES = 4

# Bytes between what would lie a power of two apart, where a cache has the same place for all.
_APART = 64


@dataclass(frozen=True)
class Candidates:
    """Scales and zero points ``[candidates, blocks]``; the first may be known to clip nothing."""

    scales: Array
    zeros: Array | None
    range: tuple[int, int]
    first_clips: bool


class Rows:
    """Blocks that are whole rows, and memory for ``rows [R, columns]`` at a time.

    Rows are put into ``numbers``; after ``take`` there are ``smallest`` and ``largest [blocks]``.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._numbers = np.zeros((rows, columns), np.float32)
        self._steps = np.empty(self._numbers.size, np.float32)

    def take(self, given: Array) -> None:
        """Numbers ``[some, columns]``, cast.  Raises ``ValueError`` where one is not finite."""
        self.numbers = self._numbers[: len(given)]
        with np.errstate(over="ignore"):
            self.numbers[:, : given.shape[-1]] = given
        self._x = self._laid_out()
        self.smallest, self.largest = self._of_blocks(np.minimum), self._of_blocks(np.maximum)
        # A NaN is the smallest and the largest of its block.
        if not (np.isfinite(self.smallest).all() and np.isfinite(self.largest).all()):
            raise ValueError(f"a weight holds {self.numbers[~np.isfinite(self.numbers)][0]:g}")

    def squared_errors(self, given: Candidates) -> Array:
        """``[candidates, blocks]``, infinite where one is too large a number."""
        errors = np.empty(given.scales.shape, np.float32)
        low, high = (np.float32(end) for end in given.range)
        scales = self._spread(given.scales)
        if given.zeros is not None:
            lows, highs = self._spread(low - given.zeros), self._spread(high - given.zeros)
        with np.errstate(over="ignore"):
            for number, scale in enumerate(scales):
                off = self._whole_steps(scale)
                if given.zeros is not None:
                    np.maximum(off, lows[number], out=off)
                    np.minimum(off, highs[number], out=off)
                elif number or given.first_clips:
                    np.clip(off, low, high, out=off)
                off *= scale
                off -= self._x
                off *= off
                errors[number] = self._sums(off)
        return errors

    def put(self, given: Candidates, out: Array) -> None:
        """The integers of one candidate into ``out [some, columns]`` of int8, in C order."""
        q = self._whole_steps(self._spread(given.scales)[0])
        if given.zeros is not None:
            q += self._spread(given.zeros)[0]
        if given.first_clips:
            low, high = (np.float32(end) for end in given.range)
            np.clip(q, low, high, out=q)
        self._put(q, out)

    def _whole_steps(self, scale: Array) -> Array:
        """How many steps each number is from 0, as the blocks lie; overwritten by the next."""
        q = self._steps[: self._x.size].reshape(self._x.shape)
        np.divide(self._x, scale, out=q)
        return np.rint(q, out=q)

    def _laid_out(self) -> Array:
        return self.numbers

    def _put(self, q: Array, out: Array) -> None:
        np.copyto(out, q, casting="unsafe")

    def _spread(self, per_block: Array) -> Array:
        return per_block[..., np.newaxis]

    def _of_blocks(self, extreme: np.ufunc) -> Array:
        made: Array = extreme.reduce(self._x, axis=1)
        return made

    def _sums(self, squares: Array) -> Array:
        raise NotImplementedError("rows have one candidate")


class Blocks(Rows):
    """Blocks of some columns, of which rows have a whole number.

    In the cache they lie as ``[groups, blocks * 4]``: neighbours of one block are groups of four,
    and what is done with a group is done with those of many blocks side by side.

    A sum has four parts, of every fourth number, each over the groups 3, 2, 1, 0, 7, 6, 5, 4, …;
    then it is (first + second) + (third + fourth).  So does ``numpy.einsum`` with SSE.
    """

    def __init__(self, rows: int, columns: int, block: int) -> None:
        super().__init__(rows, columns)
        self._groups = block // _LANES
        self._lanes = np.empty(self._numbers.size, np.float32)
        self._bytes = np.empty(self._numbers.size + self._groups * _APART, np.int8)

    def _laid_out(self) -> Array:
        made = self._lanes[: self.numbers.size].reshape(self._groups, -1)
        # Four numbers of 4 bytes are moved as one of 16, and every four groups in reverse.
        groups = self.numbers.reshape(-1).view(np.complex128).reshape(-1, self._groups // 4, 4)
        made.view(np.complex128).reshape(-1, 4, len(groups))[...] = groups[..., ::-1].transpose(
            1, 2, 0
        )
        return made

    def _put(self, q: Array, out: Array) -> None:
        # The reverse again, and a stride that is no power of two, whose rows would fall together.
        size = q.shape[1]
        made = self._bytes[: self._groups * (size + _APART)].reshape(-1, 4, size + _APART)
        np.copyto(made[:, ::-1, :size], q.reshape(-1, 4, size), casting="unsafe")
        units = made.reshape(self._groups, -1)[:, :size].view(np.int32)
        is_padded = out.shape != self.numbers.shape
        rows = np.empty(self.numbers.shape, np.int8) if is_padded else out
        rows.reshape(-1).view(np.int32).reshape(-1, self._groups)[...] = units.T
        if is_padded:
            out[...] = rows[:, : out.shape[-1]]

    def _spread(self, per_block: Array) -> Array:
        made = np.empty((*per_block.shape, _LANES), np.float32)
        flat = made.reshape(*per_block.shape[:-1], -1)
        for lane in range(_LANES):
            flat[..., lane::_LANES] = per_block
        return flat

    def _of_blocks(self, extreme: np.ufunc) -> Array:
        return _across(extreme, extreme.reduce(self._x, axis=0))

    def _sums(self, squares: Array) -> Array:
        return _across(np.add, np.add.reduce(squares, axis=0))


def _across(operator: Callable[[Array, Array], Array], lanes: Array) -> Array:
    one, two, three, four = lanes.reshape(-1, _LANES).T
    return operator(operator(one, two), operator(three, four))


def best(rows: Rows, kind: str, *, zeros: bool) -> Candidates:
    """Of the candidates of ``int8`` or ``int4``, the first of least error, block by block."""
    size = np.maximum(-rows.smallest, rows.largest)
    if zeros:
        given = _with_zeros(rows, kind)
    elif kind == "int4":
        given = _signed(rows, size)
    else:
        given = _symmetric(size)
    if len(given.scales) == 1:
        return given
    least, *errors = rows.squared_errors(given)
    scale, *scales = given.scales
    zero, *zero_points = (None,) * len(given.scales) if given.zeros is None else given.zeros
    for error, other_scale, other_zero in zip(errors, scales, zero_points, strict=True):
        better = error < least
        np.copyto(scale, other_scale, where=better)
        if zero is not None:
            np.copyto(zero, other_zero, where=better)
        np.minimum(error, least, out=least)
    return Candidates(
        scale[np.newaxis], None if zero is None else zero[np.newaxis], given.range, first_clips=True
    )


def _symmetric(size: Array) -> Candidates:
    """One, which clips nothing: the number of largest size becomes 127 or -127."""
    return Candidates(
        _scale(size / np.float32(127))[np.newaxis], None, RANGES["int8"], first_clips=False
    )


def _signed(rows: Rows, size: Array) -> Candidates:
    """The number of largest size becomes -8, whichever sign it has: then the scale has the other.

    The first candidate has it at 7 in size, which clips nothing.
    """
    sign = np.where(rows.largest > -rows.smallest, np.float32(-1), np.float32(1))
    scales = _scale(size / _INT4_STEPS[:, np.newaxis]) * sign
    return Candidates(scales, None, RANGES["int4"], first_clips=False)


def _with_zeros(rows: Rows, kind: str) -> Candidates:
    """A share of the range from the smallest number (at most 0) to the largest (at least 0)."""
    low, high = RANGES[kind]
    smallest = np.minimum(rows.smallest, np.float32(0))
    largest = np.maximum(rows.largest, np.float32(0))
    shares = (_INT4_SHARES if kind == "int4" else _INT4_SHARES[:1])[:, np.newaxis]
    steps = (shares / (high - low)).astype(np.float32)
    scales = _scale(largest * steps - smallest * steps)
    zeros = np.rint(np.float32(low) - smallest * shares.astype(np.float32) / scales)
    return Candidates(scales, np.clip(zeros, low, high), (low, high), first_clips=True)


def _scale(wanted: Array) -> Array:
    """``wanted``, which is not negative, rounded up to a normal number that bfloat16 holds."""
    bits = np.maximum(wanted, _SMALLEST_SCALE).view(np.uint32)
    bits += np.uint32(0xFFFF)
    bits &= np.uint32(0xFFFF0000)
    return bits.view(np.float32)
