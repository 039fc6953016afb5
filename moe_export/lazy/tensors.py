"""A tensor whose numbers are read when an operator needs them, and forgotten afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

Run = TypeVar("Run", bound=Callable[..., Any])

_CPU = torch.device("cpu")


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
        # In inference mode, views of what was made outside of it may not be made inside.
        with torch.inference_mode(mode=False):
            made: LazyTensor = torch.Tensor._make_wrapper_subclass(
                cls, reader.shape, dtype=reader.dtype, device=_CPU, requires_grad=False
            )
        made.reader = reader
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
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
            memo[id(self)] = like(self, LazyTensor(self.reader))
        made: Tensor = memo[id(self)]
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"LazyTensor({list(self.shape)}, {self.dtype})"


def real(leaf: Any) -> Any:
    """The tensor in memory; what is not lazy, tensor or not, as it is."""
    return whole(leaf.reader) if isinstance(leaf, LazyTensor) else leaf


def slices(tensor: Tensor, nbytes: int) -> Iterator[Tensor]:
    """The tensor's numbers in order, rows of the leading axis together that make up ``nbytes``."""
    if not isinstance(tensor, LazyTensor) or not tensor.shape:
        yield real(tensor)
        return
    for start, stop in steps(tensor.reader, nbytes):
        yield tensor.reader.rows(start, stop)


def runs(op: Any) -> Callable[[Run], Run]:
    """Say how an operator runs on lazy tensors; ``NotImplemented`` puts all of them in memory."""

    def register(run: Run) -> Run:
        _RUN[op] = run
        return run

    return register


_RUN: dict[Any, Callable[..., Any]] = {}


def like(old: Tensor, new: Tensor) -> Tensor:
    """The new tensor as a parameter, where the old one is."""
    if not isinstance(old, nn.Parameter):
        return new
    return nn.Parameter(new, requires_grad=old.requires_grad)


def steps(reader: Reader, nbytes: int) -> Iterator[tuple[int, int]]:
    """Start and stop of the rows that are read together; all, where some cost as much as all."""
    if not has_cheap_rows(reader):
        yield 0, reader.shape[0]
        return
    row = math.prod(reader.shape[1:]) * reader.dtype.itemsize
    step = max(1, nbytes // max(row, 1))
    for start in range(0, reader.shape[0], step):
        yield start, min(start + step, reader.shape[0])


def has_cheap_rows(reader: Reader) -> bool:
    """Whether to read some rows costs less than to read all of them, as it does unless it says."""
    return bool(getattr(reader, "has_cheap_rows", True))


def whole(reader: Reader) -> Tensor:
    """All of a tensor, which may have no axis."""
    return reader.rows(0, reader.shape[0] if reader.shape else 1)


def is_lazy(*trees: Any) -> bool:
    """Whether anything among them is read only when it is needed."""
    return any(isinstance(leaf, LazyTensor) for leaf in tree_leaves(trees))
