"""One matrix on its rows as the torch ops compute it: stored weights, rounded rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_export.lazy import LazyTensor, Reader, grouped_product, within
from moe_export.moe.layer import ROW_STEPS

# Rows of whole numbers: the numbers that share a scale, and the least scale that is not 0.
ROW_BLOCK = 32
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Stored:
    """A matrix ``[N, H]`` as it is stored, or the matrices ``[E, N, H]`` of all experts."""

    weight: Tensor
    bias: Tensor | None
    scales: Tensor | None
    zeros: Tensor | None

    def of(self, expert: int) -> Stored:
        """That of one expert."""
        parts = (self.bias, self.scales, self.zeros)
        return Stored(self.weight[expert], *(None if p is None else p[expert] for p in parts))

    def matrix(self, block_size: int, dtype: torch.dtype) -> Tensor:
        """What ``stored_matrix`` computes, as lazy as the weight."""
        if self.scales is None or not isinstance(self.weight, LazyTensor):
            return stored_matrix(self.weight, self.scales, self.zeros, block_size, dtype)
        scales, zeros = (
            x.reader if isinstance(x, LazyTensor) else None for x in (self.scales, self.zeros)
        )
        return LazyTensor(StoredMatrix(self.weight.reader, scales, zeros, block_size, dtype))


def linear_of(rows: Tensor, stored: Stored, block_size: int, row_format: str) -> Tensor:
    """``rows [.., H]``, rounded, times the matrix, plus the bias, in the rows' dtype."""
    bias = None if stored.bias is None else stored.bias.to(rows.dtype)
    return F.linear(_rounded(rows, row_format), stored.matrix(block_size, rows.dtype), bias)


def grouped_linear(
    rows: Tensor, offsets: Sequence[int], stored: Stored, block_size: int, row_format: str
) -> Tensor:
    """The same of each expert's rows ``[offsets[e], offsets[e+1])``; those behind them are 0."""
    rounded = _rounded(rows, row_format)
    if isinstance(stored.weight, LazyTensor):
        made = grouped_product(rounded, offsets, stored.matrix(block_size, rows.dtype))
    else:
        made = rows.new_zeros((rows.shape[0], stored.weight.shape[1]))
        for expert, (start, stop) in _served(offsets):
            matrix = stored.of(expert).matrix(block_size, rows.dtype)
            made[start:stop] = F.linear(rounded[start:stop], matrix)
    if stored.bias is not None:
        for expert, (start, stop) in _served(offsets):
            made[start:stop] += stored.bias[expert].to(rows.dtype)
    return made


def _served(offsets: Sequence[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """The experts that have rows, and where these begin and end."""
    return ((e, ends) for e, ends in enumerate(itertools.pairwise(offsets)) if ends[0] < ends[1])


@dataclass(frozen=True)
class StoredMatrix:
    """The reader of the numbers ``[.., N, H]`` that stored matrices stand for, in a dtype."""

    inner: Reader
    scales: Reader | None
    zeros: Reader | None
    block_size: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    def rows(self, start: int, stop: int) -> Tensor:
        return self._of(lambda part: part.rows(start, stop))

    def within(self, index: int, start: int, stop: int) -> Tensor:
        """Rows of the matrix that stands at an index of the leading axis."""
        return self._of(lambda part: within(part, index, start, stop))

    def _of(self, read: Callable[[Reader], Tensor]) -> Tensor:
        scales, zeros = (None if part is None else read(part) for part in (self.scales, self.zeros))
        return stored_matrix(read(self.inner), scales, zeros, self.block_size, self.dtype)


def stored_matrix(
    weight: Tensor,
    scales: Tensor | None,
    zeros: Tensor | None,
    block_size: int,
    dtype: torch.dtype,
) -> Tensor:
    """A stored weight ``[rows, columns]`` as numbers: ``(weight - zeros) * scales``."""
    matrix = weight.to(dtype)
    if scales is None:
        return matrix
    columns = matrix.shape[-1]
    block = block_size or columns
    if columns % block == 0:  # most matrices: nothing has to be repeated
        by_block = matrix.unflatten(-1, (-1, block))
        if zeros is not None:
            by_block = by_block - zeros.to(dtype).unsqueeze(-1)
        scaled: Tensor = by_block * scales.to(dtype).unsqueeze(-1)
        return scaled.flatten(-2)
    if zeros is not None:
        matrix = matrix - zeros.to(dtype).repeat_interleave(block, -1)[..., :columns]
    return matrix * scales.to(dtype).repeat_interleave(block, -1)[..., :columns]


def _rounded(rows: Tensor, row_format: str) -> Tensor:
    """``rows [.., columns]`` in their own dtype, rounded as ``docs/ops.md`` says."""
    if row_format == "f32":
        return rows
    if row_format == "bf16":
        return _to_bfloat16(rows)
    if row_format not in ROW_STEPS:
        raise ValueError(f"unknown row_format {row_format!r}")
    return in_steps(rows, ROW_STEPS[row_format])


def in_steps(rows: Tensor, steps: int, shift: float = 0.0) -> Tensor:
    """``rows [.., columns]`` as whole numbers of up to ``steps`` times a scale for each block.

    Every number is first moved up by ``shift`` times the largest of its block.
    """
    columns = rows.shape[-1]
    by_block = F.pad(rows, (0, -columns % ROW_BLOCK)).unflatten(-1, (-1, ROW_BLOCK))
    scales = by_block.abs().amax(dim=-1, keepdim=True) / steps
    scales = scales.masked_fill(scales < SMALLEST_SCALE, 0)
    q = (by_block / scales.masked_fill(scales == 0, math.inf) + shift * steps).round()
    not_finite = ~by_block.isfinite().all(dim=-1, keepdim=True)
    rounded: Tensor = (q * scales).masked_fill(not_finite, math.nan)
    return rounded.flatten(-2)[..., :columns]


def _to_bfloat16(rows: Tensor) -> Tensor:
    """To nearest even.  PyTorch's own cast of a float64 goes by way of float32 and rounds twice."""
    if rows.dtype != torch.float64:
        return rows.to(torch.bfloat16).to(rows.dtype)
    exponent = rows.frexp().exponent
    step = exponent.clamp(min=-125) - 8
    rounded = torch.ldexp(torch.ldexp(rows, -step).round(), step)
    rounded = torch.where(rounded.abs() >= 2.0**128, rows.sign() * math.inf, rounded)
    return torch.where(rows.isfinite(), rounded, rows)
