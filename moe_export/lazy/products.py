"""Arithmetic with lazy tensors in slices: products with a matrix, and rows that are looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moe_export.lazy.layout import Later, Spread, Turned
from moe_export.lazy.tensors import LazyTensor, Reader, real, runs, steps

_aten: Any = torch.ops.aten

# A slice of a matrix in a product: with its copy in another dtype it should stay in a core's cache.
_SLICE_BYTES = 1 << 19


def _matrix_of(turned: Any) -> Reader | None:
    """The ``[N, H]`` reader of a lazy ``[H, N]`` that was turned round."""
    reader = turned.reader if isinstance(turned, LazyTensor) else None
    return reader.given[0] if isinstance(reader, Turned) else None


def _product(x: Tensor, matrix: Reader) -> Tensor:
    """``x [T, H]``, rounded if the matrix says so, times the transpose of ``matrix [N, H]``."""
    x = _meet(matrix)(x)
    out = x.new_empty((x.shape[0], matrix.shape[0]))
    for start, stop in steps(matrix, _SLICE_BYTES):
        torch.mm(x, real(matrix.rows(start, stop)).t(), out=out[:, start:stop])
    return out


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
