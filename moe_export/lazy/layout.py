"""Layout and casts of lazy tensors, put off: what they make is lazy too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_export.lazy.tensors import LazyTensor, Reader, has_cheap_rows, runs, whole
from moe_export.lazy.together import Place

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Later:
    """``func`` of lazy tensors, of which rows are made of the same rows of ``given``."""

    func: Callable[..., Tensor]
    given: tuple[Reader, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_rowwise: bool

    @property
    def has_cheap_rows(self) -> bool:
        return self.is_rowwise and all(map(has_cheap_rows, self.given))

    def rows(self, start: int, stop: int) -> Tensor:
        if self.is_rowwise:
            return self.func(*(reader.rows(start, stop) for reader in self.given))
        made = self.func(*map(whole, self.given))
        return made[start:stop] if self.shape else made


@dataclass(frozen=True)
class _Call:
    """``func`` with what it takes behind the tensor, equal to any other of the same."""

    func: Callable[..., Tensor]
    more: tuple[Any, ...]

    def __call__(self, rows: Tensor) -> Tensor:
        return self.func(rows, *self.more)


@dataclass(frozen=True)
class _OfAll:
    """``func`` along an axis of several tensors."""

    func: Callable[..., Tensor]
    axis: int

    def __call__(self, *rows: Tensor) -> Tensor:
        return self.func(rows, self.axis)


@dataclass(frozen=True)
class _Cast(Later):
    """The same numbers in another dtype."""


def narrowest(reader: Reader) -> Reader:
    """What casts that lose nothing were made of."""
    while isinstance(reader, _Cast) and _holds(reader.dtype, reader.given[0].dtype):
        reader = reader.given[0]
    return reader


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    return narrow.is_floating_point and torch.promote_types(wide, narrow) is wide


def place_of(reader: Reader) -> Place:
    """Which tensor a matrix is part of, and which of its leading axis, as far as that shows."""
    of: Any = reader
    while not isinstance(of, _Entry):
        inner = _made_of(of)
        if inner is None:
            return Place(of, 0)
        of = inner
    return Place(of.inner, of.index)


def _made_of(reader: Any) -> Reader | None:
    """The one reader that another is made of, if it is one."""
    if isinstance(reader, Later):
        return reader.given[0] if len(reader.given) == 1 else None
    inner: Reader | None = getattr(reader, "inner", None)
    return inner


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

    def within(self, index: int, start: int, stop: int) -> Tensor:
        """Rows of what stands at an index of the leading axis."""
        for part in self.parts:
            if index < part.shape[0]:
                return within(part, index, start, stop)
            index -= part.shape[0]
        raise IndexError(index)


def within(reader: Any, index: int, start: int, stop: int) -> Tensor:
    """Rows of what stands at an index of a reader, and no others where it can do that."""
    if hasattr(reader, "within"):
        made: Tensor = reader.within(index, start, stop)
        return made
    entry: Tensor = reader.rows(index, index + 1)[0]
    return entry[start:stop] if entry.shape else entry


@dataclass(frozen=True)
class _Under:
    """A reader with a new leading axis of one."""

    inner: Reader
    has_cheap_rows = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.inner.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return whole(self.inner)[None][start:stop]

    def within(self, index: int, start: int, stop: int) -> Tensor:
        """Rows of the one that stands there."""
        return self.inner.rows(start, stop)


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
    def has_cheap_rows(self) -> bool:
        return hasattr(self.inner, "within")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return within(self.inner, self.index, start, stop)


@dataclass(frozen=True)
class Turned(Later):
    """A matrix turned round; ``given`` holds it as it was, for products."""


@dataclass(frozen=True)
class Spread:
    """``turned [H, N]`` once for each of a batch, ``[B, H, N]``, as products of batches want it."""

    turned: Turned
    batch: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, *self.turned.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.turned.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return whole(self.turned).expand(stop - start, *self.turned.shape)


def _later(
    func: Callable[..., Tensor], *tensors: Tensor, is_rowwise: bool, kind: type[Later] = Later
) -> LazyTensor:
    meta = func(*map(_shell, tensors))
    given = tuple(reader_of(t) for t in tensors)
    return LazyTensor(kind(func, given, tuple(meta.shape), meta.dtype, is_rowwise))


def _shell(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


@dataclass(frozen=True, eq=False)
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


def reader_of(tensor: Tensor) -> Reader:
    """Where a tensor's numbers come from, be they in memory."""
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
    return _later(_Call(Tensor.to, (dtype,)), x, is_rowwise=bool(x.shape), kind=_Cast)


@runs(_aten.to.dtype)
def _to(x: LazyTensor, dtype: torch.dtype, *_: Any, **__: Any) -> Any:
    """As it comes from inside an operator."""
    return _cast(x, dtype)


@runs(_aten.t.default)
def _t(x: LazyTensor) -> LazyTensor:
    return _transpose(x, 0, 1) if x.dim() == 2 else _same(x)


@runs(_aten.transpose.int)
def _transpose(x: LazyTensor, dim0: int, dim1: int) -> LazyTensor:
    one, other = _axis(x, dim0), _axis(x, dim1)
    if one == other:
        return _same(x)
    turn = _Call(Tensor.transpose, (one, other))
    if one and other:
        return _later(turn, x, is_rowwise=True)
    return _later(turn, x, is_rowwise=False, kind=Turned if x.dim() == 2 else Later)


@runs(_aten.permute.default)
def _permute(x: LazyTensor, dims: Sequence[int]) -> LazyTensor:
    return _later(_Call(Tensor.permute, tuple(dims)), x, is_rowwise=dims[0] == 0)


@runs(_aten.view.default)
@runs(_aten._unsafe_view.default)
@runs(_aten.reshape.default)
def _view(x: LazyTensor, size: Sequence[int]) -> LazyTensor:
    shape = list(_shell(x).reshape(size).shape)
    if shape == list(x.shape):
        return _same(x)
    if x.dim() and shape and shape[0] == x.shape[0] and x.shape[0]:
        return _later(_Call(Tensor.reshape, (-1, *shape[1:])), x, is_rowwise=True)
    return _later(_Call(Tensor.reshape, tuple(shape)), x, is_rowwise=False)


@runs(_aten.expand.default)
def _expand(x: LazyTensor, size: Sequence[int], **_: Any) -> Any:
    if isinstance(x.reader, Turned) and len(size) == 3 and size[1:] == list(x.shape):
        return LazyTensor(Spread(x.reader, size[0]))
    return NotImplemented


@runs(_aten.unsqueeze.default)
def _unsqueeze(x: LazyTensor, dim: int) -> LazyTensor:
    place = dim % (x.dim() + 1)
    if place == 0:
        return LazyTensor(_Under(x.reader))
    return _later(_Call(Tensor.unsqueeze, (place,)), x, is_rowwise=True)


@runs(_aten.select.int)
def _select(x: LazyTensor, dim: int, index: int) -> LazyTensor:
    axis = _axis(x, dim)
    if axis == 0 and isinstance(x.reader, _Cast):  # of the same numbers, so that they are known
        entry: LazyTensor = _cast(_select(LazyTensor(x.reader.given[0]), 0, index), x.dtype)
        return entry
    if axis == 0:
        return LazyTensor(_Entry(x.reader, index % x.shape[0]))
    return _later(_Call(Tensor.select, (axis, index)), x, is_rowwise=True)


@runs(_aten.slice.Tensor)
def _slice(
    x: LazyTensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> LazyTensor:
    axis = _axis(x, dim)
    first, last, _ = slice(start, end).indices(x.shape[axis])
    if axis == 0 and step == 1:
        return LazyTensor(_Part(x.reader, first, max(first, last)))
    part = _Call(_aten.slice.Tensor, (axis, start, end, step))
    return _later(part, x, is_rowwise=axis > 0)


@runs(_aten.split.Tensor)
def _split(x: LazyTensor, split_size: int, dim: int = 0) -> list[LazyTensor]:
    length = x.shape[_axis(x, dim)]
    sizes = [min(split_size, length - start) for start in range(0, length, split_size)]
    return _split_with_sizes(x, sizes, dim)


@runs(_aten.split_with_sizes.default)
def _split_with_sizes(x: LazyTensor, split_sizes: Sequence[int], dim: int = 0) -> list[LazyTensor]:
    ends = [sum(split_sizes[: number + 1]) for number in range(len(split_sizes))]
    return [_slice(x, dim, end - size, end) for size, end in zip(split_sizes, ends, strict=True)]


@runs(_aten.unbind.int)
def _unbind(x: LazyTensor, dim: int = 0) -> list[LazyTensor]:
    return [_select(x, dim, index) for index in range(x.shape[_axis(x, dim)])]


@runs(_aten.stack.default)
def _stack(tensors: Sequence[Tensor], dim: int = 0) -> LazyTensor:
    place = dim % (tensors[0].dim() + 1)
    torch.stack([_shell(t) for t in tensors], place)  # or it objects to their shapes
    if place == 0:
        return LazyTensor(_Joined(tuple(_Under(reader_of(t)) for t in tensors)))
    return _later(_OfAll(torch.stack, place), *tensors, is_rowwise=True)


@runs(_aten.cat.default)
def _cat(tensors: Sequence[Tensor], dim: int = 0) -> LazyTensor:
    axis = _axis(tensors[0], dim)
    torch.cat([_shell(t) for t in tensors], axis)
    if axis == 0:
        return LazyTensor(_Joined(tuple(map(reader_of, tensors))))
    return _later(_OfAll(torch.cat, axis), *tensors, is_rowwise=True)
