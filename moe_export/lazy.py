"""Tensors whose numbers are read when an operator needs them, and forgotten afterwards.

A model of such tensors runs as any other, in the memory of what it multiplies at a time.  Layout
and casts of them are put off; a product reads its matrix in slices of rows; whatever else meets
one gets it whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from moe_export.moe.recipe import (
    Concatenated,
    Recipe,
    Reshaped,
    Source,
    Stacked,
    Transposed,
)

_aten: Any = torch.ops.aten

# A slice of a matrix in a product: with its copy in another dtype it should stay in a core's cache.
_SLICE_BYTES = 1 << 19


class Reader(Protocol):
    """Where numbers come from: ``rows`` gives those of the leading axis from start to stop."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def rows(self, start: int, stop: int) -> Tensor: ...


class LazyTensor(torch.Tensor):
    """A tensor on the CPU over a ``Reader``.  It cannot be written to."""

    reader: Reader

    @staticmethod
    def __new__(cls, reader: Reader) -> LazyTensor:
        made: LazyTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, reader.shape, dtype=reader.dtype, device="cpu", requires_grad=False
        )
        made.reader = reader
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable and isinstance(args[0], LazyTensor):
            raise RuntimeError(f"{func} would write to a tensor that is only read")
        run = _RUN.get(func)
        if run is not None:
            made = run(*args, **kwargs)
            if made is not NotImplemented:
                return made
        return func(*tree_map(real, args), **tree_map(real, kwargs))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            memo[id(self)] = _like(self, LazyTensor(self.reader))
        made: Tensor = memo[id(self)]
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"LazyTensor({list(self.shape)}, {self.dtype})"


def real(leaf: Any) -> Any:
    """The tensor in memory; what is not lazy, tensor or not, as it is."""
    if not isinstance(leaf, LazyTensor):
        return leaf
    reader = leaf.reader
    return reader.rows(0, reader.shape[0]) if reader.shape else _whole(reader)


def slices(tensor: Tensor, nbytes: int) -> Iterator[Tensor]:
    """The tensor's numbers in order, rows of the leading axis together that make up ``nbytes``."""
    if not isinstance(tensor, LazyTensor) or not tensor.shape:
        yield real(tensor)
        return
    for start, stop in _steps(tensor.reader, nbytes):
        yield tensor.reader.rows(start, stop)


def made_of(recipe: Recipe, read: Callable[[str], Tensor]) -> Tensor:
    """The weight that a recipe makes of tensors by name, lazy where they are."""
    match recipe:
        case Source():
            return read(recipe.name).reshape(recipe.shape)
        case Transposed():
            return made_of(recipe.inner, read).transpose(-1, -2).contiguous()
        case Reshaped():
            return made_of(recipe.inner, read).reshape(recipe.shape)
        case Stacked():
            return torch.stack([made_of(part, read) for part in recipe.parts])
        case Concatenated():
            return torch.cat([made_of(part, read) for part in recipe.parts], dim=1)


def in_memory(module: nn.Module) -> nn.Module:
    """A copy of the structure with all numbers in memory; tensors that are there are shared."""
    tensors = (*module.parameters(), *module.buffers())
    memo: dict[int, Any] = {
        id(tensor): _like(tensor, real(tensor.detach())) if is_lazy(tensor) else tensor
        for tensor in tensors
    }
    return copy.deepcopy(module, memo)


def without_numbers(module: nn.Module) -> nn.Module:
    """A copy of the structure with tensors of one number in place of those that are lazy."""
    tensors = (*module.parameters(), *module.buffers())
    memo: dict[int, Any] = {
        id(tensor): _like(tensor, torch.zeros((), dtype=tensor.dtype).expand(tensor.shape))
        if is_lazy(tensor)
        else tensor
        for tensor in tensors
    }
    return copy.deepcopy(module, memo)


def twin_of(module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of the structure whose tensors are cast; without a dtype it shares them.

    Nothing that is read from a file takes memory, in whatever dtype.
    """
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        cast = dtype is not None and tensor.is_floating_point() and tensor.dtype is not dtype
        shared = dtype is None or isinstance(tensor, LazyTensor)
        if cast or shared:
            memo[id(tensor)] = _like(tensor, tensor.detach().to(dtype)) if cast else tensor
    return copy.deepcopy(module, memo)


def runs(op: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say how an operator runs on lazy tensors; ``NotImplemented`` puts all of them in memory."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        _RUN[op] = run
        return run

    return register


_RUN: dict[Any, Callable[..., Any]] = {}


def _like(old: Tensor, new: Tensor) -> Tensor:
    if not isinstance(old, nn.Parameter):
        return new
    return nn.Parameter(new, requires_grad=old.requires_grad)


def _steps(reader: Reader, nbytes: int) -> Iterator[tuple[int, int]]:
    if not _has_cheap_rows(reader):
        yield 0, reader.shape[0]
        return
    row = math.prod(reader.shape[1:]) * reader.dtype.itemsize
    step = max(1, nbytes // max(row, 1))
    for start in range(0, reader.shape[0], step):
        yield start, min(start + step, reader.shape[0])


def _has_cheap_rows(reader: Reader) -> bool:
    """Whether to read some rows costs less than to read all of them."""
    if isinstance(reader, _Later):
        return reader.is_rowwise and all(map(_has_cheap_rows, reader.given))
    return not isinstance(reader, (_Entry, _Under))


def _whole(reader: Reader) -> Tensor:
    return reader.rows(0, reader.shape[0] if reader.shape else 1)


# --- Layout, put off -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Later:
    """``func`` of lazy tensors, of which rows are made of the same rows of ``given``."""

    func: Callable[..., Tensor]
    given: tuple[Reader, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_rowwise: bool

    def rows(self, start: int, stop: int) -> Tensor:
        if self.is_rowwise:
            return self.func(*(reader.rows(start, stop) for reader in self.given))
        made = self.func(*map(_whole, self.given))
        return made[start:stop] if self.shape else made


@dataclass(frozen=True)
class _Joined:
    """Readers one after the other along the leading axis."""

    parts: tuple[Reader, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    def rows(self, start: int, stop: int) -> Tensor:
        out = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        first = 0
        for part in self.parts:
            begin, end = max(start - first, 0), min(stop - first, part.shape[0])
            if begin < end:
                out[first + begin - start : first + end - start] = part.rows(begin, end)
            first += part.shape[0]
        return out


@dataclass(frozen=True)
class _Under:
    """A reader with a new leading axis of one."""

    inner: Reader

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.inner.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return _whole(self.inner)[None][start:stop]


@dataclass(frozen=True)
class _Part:
    """Rows ``start`` to ``stop`` of a reader."""

    inner: Reader
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.inner.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.inner.rows(self.start + start, self.start + stop)


@dataclass(frozen=True)
class _Entry:
    """What stands at one index of a reader's leading axis."""

    inner: Reader
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        entry = self.inner.rows(self.index, self.index + 1)[0]
        return entry[start:stop] if self.shape else entry


@dataclass(frozen=True)
class _Turned(_Later):
    """A matrix turned round; ``given`` holds it as it was, for products."""


def _later(func: Callable[..., Tensor], *tensors: Tensor, is_rowwise: bool) -> LazyTensor:
    meta = func(*map(_shell, tensors))
    given = tuple(_reader(t) for t in tensors)
    return LazyTensor(_Later(func, given, tuple(meta.shape), meta.dtype, is_rowwise))


def _shell(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


@dataclass(frozen=True)
class _Held:
    """A tensor that is in memory, among others that are not."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop] if self.shape else self.tensor


def _reader(tensor: Tensor) -> Reader:
    return tensor.reader if isinstance(tensor, LazyTensor) else _Held(tensor)


def _axis(x: Tensor, dim: int) -> int:
    return dim % max(x.dim(), 1)


@runs(_aten.detach.default)
@runs(_aten.alias.default)
@runs(_aten.clone.default)
@runs(_aten.lift_fresh.default)
def _same(x: LazyTensor, **_: Any) -> LazyTensor:
    return LazyTensor(x.reader)


@runs(_aten._to_copy.default)
def _cast(x: LazyTensor, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
        return _shell(x)
    if dtype is None or dtype is x.dtype:
        return LazyTensor(x.reader)
    return _later(lambda rows: rows.to(dtype), x, is_rowwise=bool(x.shape))


@runs(_aten.t.default)
def _t(x: LazyTensor) -> LazyTensor:
    return _transpose(x, 0, 1) if x.dim() == 2 else _same(x)


@runs(_aten.transpose.int)
def _transpose(x: LazyTensor, dim0: int, dim1: int) -> LazyTensor:
    one, other = _axis(x, dim0), _axis(x, dim1)
    if one == other:
        return _same(x)
    if one and other:
        return _later(lambda rows: rows.transpose(one, other), x, is_rowwise=True)
    made = _later(lambda whole: whole.transpose(one, other), x, is_rowwise=False).reader
    kind = _Turned if x.dim() == 2 else _Later
    return LazyTensor(kind(made.func, made.given, made.shape, made.dtype, False))  # type: ignore[attr-defined]


@runs(_aten.permute.default)
def _permute(x: LazyTensor, dims: Sequence[int]) -> LazyTensor:
    return _later(lambda rows: rows.permute(dims), x, is_rowwise=dims[0] == 0)


@runs(_aten.view.default)
@runs(_aten._unsafe_view.default)
@runs(_aten.reshape.default)
def _view(x: LazyTensor, size: Sequence[int]) -> LazyTensor:
    shape = list(_shell(x).reshape(size).shape)
    if x.dim() and shape and shape[0] == x.shape[0] and x.shape[0]:
        return _later(lambda rows: rows.reshape(-1, *shape[1:]), x, is_rowwise=True)
    return _later(lambda whole: whole.reshape(shape), x, is_rowwise=False)


@runs(_aten.unsqueeze.default)
def _unsqueeze(x: LazyTensor, dim: int) -> LazyTensor:
    place = dim % (x.dim() + 1)
    if place == 0:
        return LazyTensor(_Under(x.reader))
    return _later(lambda rows: rows.unsqueeze(place), x, is_rowwise=True)


@runs(_aten.select.int)
def _select(x: LazyTensor, dim: int, index: int) -> LazyTensor:
    axis = _axis(x, dim)
    if axis == 0:
        return LazyTensor(_Entry(x.reader, index % x.shape[0]))
    return _later(lambda rows: rows.select(axis, index), x, is_rowwise=True)


@runs(_aten.slice.Tensor)
def _slice(
    x: LazyTensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> LazyTensor:
    axis = _axis(x, dim)
    first, last, _ = slice(start, end).indices(x.shape[axis])
    if axis == 0 and step == 1:
        return LazyTensor(_Part(x.reader, first, max(first, last)))
    return _later(
        lambda rows: _aten.slice.Tensor(rows, axis, start, end, step), x, is_rowwise=axis > 0
    )


@runs(_aten.split.Tensor)
def _split(x: LazyTensor, split_size: int, dim: int = 0) -> list[LazyTensor]:
    length = x.shape[_axis(x, dim)]
    sizes = [min(split_size, length - start) for start in range(0, length, split_size)]
    return _split_with_sizes(x, sizes, dim)


@runs(_aten.split_with_sizes.default)
def _split_with_sizes(x: LazyTensor, split_sizes: Sequence[int], dim: int = 0) -> list[LazyTensor]:
    ends = [sum(split_sizes[: number + 1]) for number in range(len(split_sizes))]
    return [
        _slice(x, dim, end - size, end) for size, end in zip(split_sizes, ends, strict=True)
    ]


@runs(_aten.unbind.int)
def _unbind(x: LazyTensor, dim: int = 0) -> list[LazyTensor]:
    return [_select(x, dim, index) for index in range(x.shape[_axis(x, dim)])]


@runs(_aten.stack.default)
def _stack(tensors: Sequence[Tensor], dim: int = 0) -> LazyTensor:
    place = dim % (tensors[0].dim() + 1)
    torch.stack([_shell(t) for t in tensors], place)  # or it objects to their shapes
    if place == 0:
        return LazyTensor(_Joined(tuple(_Under(_reader(t)) for t in tensors)))
    return _later(lambda *rows: torch.stack(rows, place), *tensors, is_rowwise=True)


@runs(_aten.cat.default)
def _cat(tensors: Sequence[Tensor], dim: int = 0) -> LazyTensor:
    axis = _axis(tensors[0], dim)
    torch.cat([_shell(t) for t in tensors], axis)
    if axis == 0:
        return LazyTensor(_Joined(tuple(map(_reader, tensors))))
    return _later(lambda *rows: torch.cat(rows, axis), *tensors, is_rowwise=True)


# --- Arithmetic, in slices -------------------------------------------------------------------------


def _matrix_of(turned: Any) -> Reader | None:
    """The ``[N, H]`` reader of a lazy ``[H, N]`` that was turned round."""
    reader = turned.reader if isinstance(turned, LazyTensor) else None
    return reader.given[0] if isinstance(reader, _Turned) else None


def _product(x: Tensor, matrix: Reader) -> Tensor:
    """``x [T, H]`` times the transpose of ``matrix [N, H]``."""
    out = x.new_empty((x.shape[0], matrix.shape[0]))
    for start, stop in _steps(matrix, _SLICE_BYTES):
        torch.mm(x, matrix.rows(start, stop).t(), out=out[:, start:stop])
    return out


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


def is_lazy(*trees: Any) -> bool:
    """Whether anything among them is read only when it is needed."""
    return any(isinstance(leaf, LazyTensor) for leaf in tree_flatten(trees)[0])
