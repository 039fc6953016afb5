"""Arithmetic with lazy tensors in slices: products with a matrix, and rows that are looked up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_export.lazy.cores import each_on_its_own_core
from moe_export.lazy.layout import Later, Spread, Turned, narrowest, place_of, reader_of, within
from moe_export.lazy.tensors import LazyTensor, Reader, real, runs, steps
from moe_export.lazy.together import multiplied

_aten: Any = torch.ops.aten

# A slice of a matrix in a product: with its copies in other dtypes it should stay in the cache.
_SLICE_NUMBERS = 1 << 19


def _matrix_of(turned: Any) -> Reader | None:
    """The ``[N, H]`` reader of a lazy ``[H, N]`` that was turned round."""
    reader = turned.reader if isinstance(turned, LazyTensor) else None
    return reader.given[0] if isinstance(reader, Turned) else None


def _product(x: Tensor, matrix: Reader) -> Tensor:
    """``x [T, H]``, rounded if the matrix says so, times the transpose of ``matrix [N, H]``."""
    return multiplied(_meet(matrix)(x), narrowest(matrix), place_of(matrix), _products)


def _products(matrix: Reader, rows: Sequence[Tensor]) -> list[Tensor]:
    """The products of several ``[T, H]``, each in its own dtype, with one ``[N, H]``."""
    made = [x.new_empty((x.shape[0], matrix.shape[0])) for x in rows]

    def multiply(part: tuple[int, int]) -> None:
        start, stop = part
        with torch.no_grad():
            read = real(matrix.rows(start, stop))
            cast = {dtype: read.to(dtype).t() for dtype in {x.dtype for x in rows}}
            for x, out in zip(rows, made, strict=True):
                torch.mm(x, cast[x.dtype], out=out[:, start:stop])

    each_on_its_own_core(multiply, list(steps(matrix, _SLICE_NUMBERS * matrix.dtype.itemsize)))
    return made


def grouped_product(rows: Tensor, offsets: Sequence[int], matrices: Tensor) -> Tensor:
    """Rows ``[offsets[e], offsets[e+1])`` of ``[S, H]`` times the transpose of ``matrices[e]``.

    ``matrices [E, N, H]`` do not round what meets them.  Rows behind the last are 0.
    """
    matrix = narrowest(reader_of(matrices))
    given = _Grouped(rows, list(itertools.pairwise(offsets)))
    return multiplied(given, matrix, place_of(matrix), _grouped_products)


@dataclass(frozen=True)
class _Grouped:
    """Rows ``[S, H]`` in the order of their experts, and where those of each begin and end."""

    rows: Tensor
    ends: Sequence[tuple[int, int]]

    def of(self, expert: int) -> tuple[int, int]:
        return self.ends[expert] if expert < len(self.ends) else (0, 0)


def _grouped_products(matrices: Reader, given: Sequence[_Grouped]) -> list[Tensor]:
    """The products of several with the matrices ``[E, N, H]`` of all experts, each read once."""
    experts, width, depth = matrices.shape
    made = [each.rows.new_zeros((each.rows.shape[0], width)) for each in given]
    step = max(1, _SLICE_NUMBERS // depth) if hasattr(matrices, "within") else width
    slices = [(start, min(start + step, width)) for start in range(0, width, step)]

    def multiply(part: tuple[int, int, int]) -> None:
        expert, start, stop = part
        with torch.no_grad():
            read = real(within(matrices, expert, start, stop))
            cast = {dtype: read.to(dtype).t() for dtype in {each.rows.dtype for each in given}}
            for each, out in zip(given, made, strict=True):
                first, last = each.of(expert)
                if first < last:
                    rows = each.rows[first:last]
                    torch.mm(rows, cast[rows.dtype], out=out[first:last, start:stop])

    ends = ((e, each.of(e)) for e in range(experts) for each in given)
    wanted = sorted({e for e, (first, last) in ends if first < last})
    each_on_its_own_core(multiply, [(e, *part) for e in wanted for part in slices])
    return made


def _meet(reader: Reader) -> Callable[[Tensor], Tensor]:
    """What the innermost reader makes of rows that meet its matrix."""
    while isinstance(reader, Later) and len(reader.given) == 1:
        reader = reader.given[0]
    made: Callable[[Tensor], Tensor] = getattr(reader, "meet", lambda rows: rows)
    return made


@runs(_aten.mm.default)
def _mm(x: Tensor, other: Tensor) -> Any:
    matrix = _matrix_of(other)
    return NotImplemented if matrix is None else _product(real(x), matrix)


@runs(_aten.addmm.default)
def _addmm(bias: Tensor, x: Tensor, other: Tensor, **kwargs: Any) -> Any:
    matrix = _matrix_of(other)
    if matrix is None or kwargs:
        return NotImplemented
    return _product(real(x), matrix).add_(real(bias))


@runs(_aten.linear.default)
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """As it comes from inside an operator; from outside it is the ones above."""
    if not isinstance(weight, LazyTensor):
        return NotImplemented
    rows = real(x)
    made = _product(rows.reshape(-1, rows.shape[-1]), weight.reader)
    if bias is not None:
        made.add_(real(bias))
    return made.reshape(*rows.shape[:-1], made.shape[-1])


@runs(_aten.bmm.default)
def _bmm(x: Tensor, other: Tensor) -> Any:
    """One matrix for all of a batch, which is how rows that do not lie together meet it."""
    spread = other.reader if isinstance(other, LazyTensor) else None
    if not isinstance(spread, Spread):
        return NotImplemented
    rows = real(x)
    made = _product(rows.reshape(-1, rows.shape[-1]), spread.turned.given[0])
    return made.reshape(*rows.shape[:-1], made.shape[-1])


@runs(_aten.embedding.default)
def _embedding(weight: Tensor, indices: Tensor, *_: Any, **__: Any) -> Any:
    return _gathered(weight, indices)


@runs(_aten.index_select.default)
def _index_select(x: Tensor, dim: int, index: Tensor) -> Any:
    return _gathered(x, index) if dim == 0 else NotImplemented


@runs(_aten.index.Tensor)
def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Any:
    (first, *others) = indices
    integer = first is not None and first.dtype in (torch.int32, torch.int64)
    return _gathered(x, first) if integer and not others else NotImplemented


def _gathered(x: Any, index: Any) -> Any:
    """Rows of the leading axis, each read once."""
    if not isinstance(x, LazyTensor) or isinstance(index, LazyTensor):
        return NotImplemented
    wanted, places = index.unique(return_inverse=True)
    rows = [x.reader.rows(n % x.shape[0], n % x.shape[0] + 1) for n in wanted.tolist()]
    table = torch.cat(rows) if rows else torch.empty((0, *x.shape[1:]), dtype=x.dtype)
    return table[places]
