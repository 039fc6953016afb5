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
    joined = _joined(rows)
    made = [each.rows.new_empty((len(each.rows), matrix.shape[0])) for each in joined]

    def multiply(part: tuple[int, int]) -> None:
        start, stop = part
        with torch.no_grad():
            read = real(matrix.rows(start, stop))
            for each, out in zip(joined, made, strict=True):
                torch.mm(each.rows, read.to(out.dtype).t(), out=out[:, start:stop])

    each_on_its_own_core(multiply, list(steps(matrix, _SLICE_NUMBERS * matrix.dtype.itemsize)))
    return _parted(joined, made)


@dataclass(frozen=True)
class _Joined:
    """The rows of those that have one dtype, and who they are: a few rows more cost little."""

    rows: Tensor
    places: Sequence[int]
    sizes: Sequence[int]


def _joined(given: Sequence[Tensor]) -> list[_Joined]:
    """``[T, H]`` each, by dtype."""
    dtypes = dict.fromkeys(rows.dtype for rows in given)
    of_each = ([n for n, rows in enumerate(given) if rows.dtype is dtype] for dtype in dtypes)
    return [
        _Joined(torch.cat([given[n] for n in places]), places, [len(given[n]) for n in places])
        for places in of_each
    ]


def _parted(joined: Sequence[_Joined], made: Sequence[Tensor]) -> list[Tensor]:
    """What belongs to each of those whose rows were joined, in their order."""
    parts = {
        place: part
        for each, whole in zip(joined, made, strict=True)
        for place, part in zip(each.places, torch.split(whole, list(each.sizes)), strict=True)
    }
    return [parts[place] for place in range(len(parts))]


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


def _grouped_products(matrices: Reader, given: Sequence[_Grouped]) -> list[Tensor]:
    """The products of several with the matrices ``[E, N, H]`` of all experts, each read once."""
    experts, width, depth = matrices.shape
    joined = _joined([each.rows for each in given])
    orders = [_by_expert([given[n] for n in each.places], experts) for each in joined]
    rows = [each.rows[order.places] for each, order in zip(joined, orders, strict=True)]
    made = [each.new_zeros((len(each), width)) for each in rows]
    step = max(1, _SLICE_NUMBERS // depth) if hasattr(matrices, "within") else width
    slices = [(start, min(start + step, width)) for start in range(0, width, step)]

    def multiply(part: tuple[int, int, int]) -> None:
        expert, start, stop = part
        with torch.no_grad():
            read = real(within(matrices, expert, start, stop))
            for x, order, out in zip(rows, orders, made, strict=True):
                first, last = order.ends[expert]
                if first < last:
                    weight = read.to(x.dtype).t()
                    torch.mm(x[first:last], weight, out=out[first:last, start:stop])

    wanted = [e for e in range(experts) if any(o.ends[e][0] < o.ends[e][1] for o in orders)]
    each_on_its_own_core(multiply, [(e, *part) for e in wanted for part in slices])
    return _parted(joined, [y[o.places.argsort()] for y, o in zip(made, orders, strict=True)])


@dataclass(frozen=True)
class _Order:
    """Which row comes when, ``places [S]``, and where those of each expert begin and end."""

    places: Tensor
    ends: Sequence[tuple[int, int]]


def _by_expert(given: Sequence[_Grouped], experts: int) -> _Order:
    """The order in which the rows of several, one behind the other, are those of one."""
    behind = experts  # rows behind those of the last expert
    of_rows = []
    for each in given:
        sizes = [last - first for first, last in each.ends]
        rest = len(each.rows) - sum(sizes)
        of_rows += [expert for expert, size in enumerate(sizes) for _ in range(size)]
        of_rows += [behind] * rest
    owners = torch.tensor(of_rows, dtype=torch.int64)
    stops = owners.bincount(minlength=experts + 1).cumsum(0).tolist()
    return _Order(owners.argsort(stable=True), list(itertools.pairwise([0, *stops[:experts]])))


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
